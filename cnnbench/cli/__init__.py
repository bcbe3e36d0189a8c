"""The command line: parse, call, exit code; nothing else.

Exit codes: 0 all well; 1 `gate` confirmed a regression, or `verify` found a disagreement; 2 bad input; 3 a case failed,
is invalid, wrong or missing, or was not reached, or an exact figure differs; 4 `gate --strict` could not tell; 130
interrupted. Heavy modules are imported inside the commands that need them, so that `--help` answers at once.
"""

import sys
from typing import Annotated

import typer

from cnnbench import __version__
from cnnbench.cli import gate, machine, models, runs, train
from cnnbench.errors import CnnbenchError

app = typer.Typer(
    help="Which CNN, in which runtime, on which hardware, how fast, and why.\n\n"
    "Example: cnnbench run suites/smoke.yaml",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for commands in (runs, gate, models, train, machine):
    app.add_typer(commands.app)


def main() -> None:
    """Run the command line; what a user caused is one message on standard error, never a traceback."""
    try:
        app()
    except CnnbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror or error}", file=sys.stderr)
        sys.exit(CnnbenchError.exit_code)


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit

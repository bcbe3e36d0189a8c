"""The command line: parse, call, exit code; nothing else.

Exit codes: 0 all well; 1 `gate` confirmed a regression, `verify` found a disagreement, or `diverge` a wrong layer; 2
bad input; 3 a case failed, is invalid, wrong or missing, or was not reached, or an exact figure differs; 4 `gate
--strict` could not tell; 70 an internal error; 129, 130, 143 ended by SIGHUP, Ctrl-C, SIGTERM. Heavy modules are
imported inside the commands that need them, so that `--help` answers at once.
"""

import os
import sys
import traceback
from typing import Annotated

import typer

from cnnbench import __version__
from cnnbench.cli import (
    bisect,
    cache,
    curves,
    evaluate,
    gate,
    history,
    layers,
    machine,
    models,
    pick,
    process,
    runs,
    serving,
    study,
    train,
    train_suite,
)
from cnnbench.cli.common import EXIT_FAULT, EXIT_INTERRUPTED
from cnnbench.errors import CnnbenchError
from cnnbench.records.printable import printable

TRACEBACK = "CNNBENCH_TRACEBACK"
MAX_LINE = 1000
"""Characters of one line of an error, which may quote what was given."""

START = """\
cnnbench: which CNN, in which runtime, on which hardware, how fast, and why.

measure  cnnbench run classic                                  nine networks in PyTorch and ONNX Runtime, here
choose   cnnbench pick RUN --p50 20ms --accuracy 70            what meets bounds, of what was measured
guard    cnnbench gate suites/gate.yaml --base main --head .   whether a change made it slower, for CI

cnnbench --help lists all commands; cnnbench COMMAND --help has an example of each."""
"""What the command without words prints: the three things that people do."""

app = typer.Typer(
    help="Which CNN, in which runtime, on which hardware, how fast, and why.\n\n"
    "Example: cnnbench run suites/smoke.yaml",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for commands in (
    runs,
    pick,
    gate,
    bisect,
    models,
    layers,
    train,
    train_suite,
    evaluate,
    curves,
    study,
    serving,
    machine,
    cache,
):
    app.add_typer(commands.app)
app.add_typer(history.app, name="history")


def main() -> None:
    """Run the command line; whatever happens is one message on standard error, never a traceback."""
    process.set_up_output()
    with process.ending_signals() as received:
        code = _run()
    if received and code == EXIT_INTERRUPTED:
        code = 128 + received[0]
    sys.exit(_flushed(code))


def _run() -> int:
    try:
        app()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
        # Typer ends with 1 for other reasons too, and 1 is a verdict here.
        return EXIT_FAULT if code == 1 and not isinstance(end.__context__, typer.Exit) else code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except CnnbenchError as error:
        return _tell(str(error), error.exit_code)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _tell(f"{place}{error.strerror or error}", CnnbenchError.exit_code)
    except Exception as error:
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        what = f"{type(error).__name__}: {error}"
        return _tell(f"internal error: {what}; {TRACEBACK}=1 prints the traceback", EXIT_FAULT)
    return 0


def _tell(message: str, code: int) -> int:
    for line in f"error: {message}".splitlines():
        print(printable(line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}..."), file=sys.stderr)
    return code


def _flushed(code: int) -> int:
    """The exit code, when all that was printed has gone out; none says that all is well if it has not."""
    if fault := process.flush_output():
        return code or _tell(f"standard output: {fault}", CnnbenchError.exit_code)
    return code


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(START)

"""The command that says whether something got worse."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cnnbench.cli.common import EXIT_NOT_ALL_MEASURED
from cnnbench.errors import InputError

app = typer.Typer()


@app.command()
def gate(
    suite: Annotated[str, typer.Argument(help="A YAML file, or the name of a suite that comes with cnnbench.")],
    exact: Annotated[
        bool, typer.Option("--exact", help="Compare what no noise touches: counts, graphs, the memory formula.")
    ] = False,
    expect: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The expected figures; SUITE.expect.yaml if not given.")
    ] = None,
    update: Annotated[bool, typer.Option("--update", help="Write the figures into the file instead.")] = False,
) -> None:
    """Compare a suite's models with figures that are kept with the code; exit 3 if one differs or the file is missing.

    Example: cnnbench gate suites/smoke.yaml --exact
    """
    from cnnbench.suite import load_suite

    loaded = load_suite(suite)
    if not exact:
        raise InputError("gate: expected --exact")
    run_exact(loaded, expect, update=update, command=f"cnnbench gate {suite} --exact")


def run_exact(suite: Any, expect: Path | None, *, update: bool, command: str) -> None:
    """The exact gate: prints what differs and the lines that the file would need. Raises typer.Exit(3) on a difference.

    With `update` it writes the file instead.
    """
    from cnnbench import expectation
    from cnnbench.report.exact import lines

    file = expect or expectation.expectation_file(suite)
    if update:
        expectation.write_expectation(file, suite.name, expectation.find_figures(suite, _doing))
        typer.echo(f"written: {file}")
        return
    report = expectation.check_exact(suite, file, _doing)
    typer.echo("\n".join(lines(report, command)))
    if report.differences:
        raise typer.Exit(EXIT_NOT_ALL_MEASURED)


def _doing(model: str) -> None:
    typer.echo(f"{model}: building, counting, exporting and proving", err=True)

"""Commands about runs: measuring a suite, and showing and comparing what was measured."""

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from cnnbench.cli.common import EXIT_INTERRUPTED, EXIT_NOT_ALL_MEASURED, Json, console, parse
from cnnbench.errors import InputError
from cnnbench.report.plain import print_frames, print_json
from cnnbench.suite.parse import parse_duration

app = typer.Typer()

SuiteName = Annotated[str, typer.Argument(help="A YAML file, or the name of a suite that comes with cnnbench.")]
Only = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="Only cases whose id fits, such as 'resnet*/inference/*'."),
]


@app.command()
def run(
    suite: SuiteName,
    out: Annotated[Path | None, typer.Option(help="The run's folder; runs/<suite>-<time> if not given.")] = None,
    only: Only = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Time for the whole run, such as 10m; the suite's if not given."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on in --out: measure only what is not finished.")
    ] = False,
) -> None:
    """Measure a suite: instantiate, count, export, prove, time, and write tables.

    Example: cnnbench run suites/classic.yaml --only 'resnet*' --budget 5m
    """
    from cnnbench.records.run_folder import new_folder
    from cnnbench.report.terminal import Progress
    from cnnbench.runner.run import run as measure
    from cnnbench.suite.load import load_suite, select

    loaded = load_suite(suite)
    cases = parse(partial(select, loaded.cases), only or [], "--only")
    seconds = parse(parse_duration, budget, "--budget") if budget else loaded.budget_s
    if resume and out is None:
        raise InputError("--resume: expected --out with the folder of the run to go on with; got none")
    folder = out or new_folder(loaded)
    ended = measure(loaded, cases, folder, budget_s=seconds, resume=resume, watch=partial(Progress, console()))
    if ended.empty and ended.interrupted:
        typer.echo("interrupted before a case was finished", err=True)
        raise typer.Exit(EXIT_INTERRUPTED)
    records = _show_run(folder).run.records
    options = [word for pattern in only or [] for word in ("--only", pattern)]
    again = shlex.join(["cnnbench", "run", suite, "--out", str(folder), *options, "--resume"])
    left = f"{len(ended.left)} of {len(cases)} cases left; go on with: {again}"
    if ended.interrupted:
        typer.echo(f"interrupted with {left}", err=True)
        raise typer.Exit(EXIT_INTERRUPTED)
    if not ended.in_time:
        typer.echo(f"the budget was spent with {left}", err=True)
    if ended.left or any(records[case.id].status == "invalid" for case in cases):
        raise typer.Exit(EXIT_NOT_ALL_MEASURED)


@app.command()
def cases(suite: SuiteName, only: Only = None, as_json: Json = False) -> None:
    """What a suite would measure, one case a line.

    Example: cnnbench cases suites/classic.yaml --only '*/training/*'
    """
    from cnnbench.suite.load import load_suite, select

    chosen = parse(partial(select, load_suite(suite).cases), only or [], "--only")
    if as_json:
        print_json([{"id": case.id, **case.model_dump()} for case in chosen])
    else:
        typer.echo("\n".join(case.id for case in chosen))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    open_: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="First profile its models layer by layer, on the machine of the run.")
    ] = False,
    as_json: Json = False,
) -> None:
    """A run's tables again, and its page, files and charts written anew, from its records.

    Example: cnnbench report runs/smoke-20260101-120000 --open
    """
    from cnnbench.api import load

    if profile:
        _profile(folder)
    if as_json:
        print_frames({name: table.data for name, table in load(folder).tables.items()})
        return
    results = _show_run(folder)
    if open_:
        _open(results.run.folder / "report.html")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs' folders, of any machines.")],
    reference: Annotated[
        str, typer.Option(metavar="N", help="The machine that ratios are taken to: its number, or its name.")
    ] = "1",
    prices: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A YAML file with watts and price_per_hour by machine.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write page, tables and charts there.")] = None,
    as_json: Json = False,
) -> None:
    """Runs from any machines side by side, on the cases that they share. A description, not a verdict.

    Example: cnnbench compare runs/laptop runs/server --reference 2 --out compared
    """
    from cnnbench import api
    from cnnbench.report.terminal import print_tables

    compared = api.compare(*runs, reference=reference, prices=prices)
    if as_json:
        print_frames({name: table.data for name, table in compared.tables.items()})
    else:
        print_tables(console(), list(compared.tables.values()))
    _warn_unreadable(compared.page.warnings)
    if out:
        typer.echo(f"report in {compared.write(out)}", err=as_json)


def _show_run(folder: Path) -> Any:
    """Write the run's report and print its tables; gives its results."""
    from cnnbench.api import load
    from cnnbench.report.terminal import print_tables

    results = load(folder)
    print_tables(console(), list(results.tables.values()))
    _warn_unreadable(results.run.unreadable)
    try:
        where = f"report in {results.write()}"
    except OSError as error:
        where = f"report not written: {error.strerror}"
    typer.echo(f"{len(results.run.records)} records in {folder}; {where}")
    return results


def _profile(folder: Path) -> None:
    from cnnbench.records.run_folder import read_run
    from cnnbench.runner.tasks.layer_profile import profile_run

    def watch(model: str, number: int, count: int) -> None:
        typer.echo(f"[{number}/{count}] {model}: where its time goes", err=True)

    _warn_unreadable(profile_run(read_run(folder), watch))


def _open(page: Path) -> None:
    import webbrowser

    if not (page.exists() and webbrowser.open(page.as_uri())):
        typer.echo(f"no browser could be started; open {page}", err=True)


def _warn_unreadable(lines: Sequence[str]) -> None:
    for line in lines:
        typer.echo(f"warning: {line}", err=True)

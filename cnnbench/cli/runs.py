"""Commands about runs: measuring a suite, and showing and comparing what was measured."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from cnnbench.cli.common import EXIT_INTERRUPTED, EXIT_NOT_ALL_MEASURED, Json, console, parse, select
from cnnbench.errors import InputError, RunFolderError
from cnnbench.report.plain import print_frames, print_json
from cnnbench.units import parse_duration

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
    from cnnbench import store as stores
    from cnnbench.machine import environment, usable_threads
    from cnnbench.report.terminal import Progress
    from cnnbench.runner import run_suite
    from cnnbench.suite import load_suite

    loaded = load_suite(suite)
    cases = select(loaded.cases, only)
    seconds = parse(parse_duration, budget, "--budget") if budget else loaded.budget_s
    if resume and out is None:
        raise InputError("--resume: expected --out with the folder of the run to go on with; got none")
    folder = out or stores.new_folder(loaded)
    about = environment([case.threads or usable_threads() for case in cases], loaded.path.resolve().parent)
    interrupted = reached = False
    with stores.Store(folder, loaded, about, resume=resume) as store:
        finished = store.finished()
        try:
            with Progress(console(), len(cases), sum(case.id in finished for case in cases)) as progress:
                reached = run_suite(loaded, cases, store, about, progress, seconds)
        except KeyboardInterrupt:
            interrupted = True
        finished = store.finished()
    if not finished and interrupted:
        typer.echo("interrupted before a case was finished", err=True)
        raise typer.Exit(EXIT_INTERRUPTED)
    records = _show_run(folder).records
    left = [case.id for case in cases if case.id not in finished]
    options = [word for pattern in only or [] for word in ("--only", pattern)]
    again = shlex.join(["cnnbench", "run", suite, "--out", str(folder), *options, "--resume"])
    if interrupted:
        typer.echo(f"interrupted with {len(left)} of {len(cases)} cases left; go on with: {again}", err=True)
        raise typer.Exit(EXIT_INTERRUPTED)
    if not reached:
        typer.echo(f"the budget was spent with {len(left)} of {len(cases)} cases left; go on with: {again}", err=True)
    if left or any(records[case.id].status == "invalid" for case in cases):
        raise typer.Exit(EXIT_NOT_ALL_MEASURED)


@app.command()
def cases(suite: SuiteName, only: Only = None, as_json: Json = False) -> None:
    """What a suite would measure, one case a line.

    Example: cnnbench cases suites/classic.yaml --only '*/training/*'
    """
    from cnnbench.suite import load_suite

    chosen = select(load_suite(suite).cases, only)
    if as_json:
        print_json([{"id": case.id, **case.model_dump()} for case in chosen])
    else:
        typer.echo("\n".join(case.id for case in chosen))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")], as_json: Json = False
) -> None:
    """A run's tables again, from its records.

    Example: cnnbench report runs/smoke-20260101-120000
    """
    _show_run(folder, as_json=as_json)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs' folders; ratios are to the first.")],
    as_json: Json = False,
) -> None:
    """Several runs in one table, with their machines named. A description, not a verdict.

    Example: cnnbench compare runs/laptop runs/server
    """
    from cnnbench.report.display import compare_tables
    from cnnbench.report.tables import comparison_table, machines_table
    from cnnbench.report.terminal import print_tables
    from cnnbench.store import read_run

    read = [read_run(folder.resolve()) for folder in runs]
    names = [run.folder.name for run in read]
    if len(set(names)) < len(names):
        raise RunFolderError(f"expected runs in folders of different names; got {', '.join(names)}")
    if as_json:
        print_frames({"machines": machines_table(read), "cases": comparison_table(read)})
    else:
        print_tables(console(), compare_tables(read))
        _warn_unreadable([line for run in read for line in run.unreadable])


def _show_run(folder: Path, *, as_json: bool = False) -> Any:
    """Write the run's report files and print its tables; gives the run."""
    from cnnbench.report.display import run_tables
    from cnnbench.report.files import write_report
    from cnnbench.report.terminal import print_tables
    from cnnbench.store import read_run

    result = read_run(folder)
    tables = run_tables(result)
    try:
        where = f"tables in {write_report(result, tables)}"
    except OSError as error:
        where = f"tables not written: {error.strerror}"
    if as_json:
        print_frames({table.name: table.data for table in tables})
        return result
    print_tables(console(), tables)
    _warn_unreadable(result.unreadable)
    typer.echo(f"{len(result.records)} records in {folder}; {where}")
    return result


def _warn_unreadable(lines: list[str]) -> None:
    for line in lines:
        typer.echo(f"warning: {line}", err=True)

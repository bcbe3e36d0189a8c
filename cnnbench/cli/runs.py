"""Commands about runs: measure a suite, report, compare and convert its results."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cnnbench.cli.common import EXIT_INTERRUPTED, EXIT_NOT_ALL_MEASURED, Json, console, select_cases
from cnnbench.errors import InputError
from cnnbench.report.plain import print_frames, print_json
from cnnbench.suite.parse import checked, parse_duration

if TYPE_CHECKING:
    from cnnbench.api import Results

app = typer.Typer()
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]
SuiteName = Annotated[str, typer.Argument(metavar="SUITE", help="A YAML file, or the name of a bundled suite.")]
Only = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="Only cases whose id matches, such as 'resnet*/inference/*'."),
]

ShowTables = Annotated[bool, typer.Option("--tables", help="Print the tables of what was measured, too.")]


@app.command()
def run(
    suite: SuiteName,
    out: Annotated[Path | None, typer.Option(help="The run's folder; runs/<suite>-<time> if not given.")] = None,
    only: Only = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Time for the whole run, such as 10m; the suite's if not given."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    fleet: Annotated[
        str | None,
        typer.Option(
            metavar="local|auto|ADDRESS",
            help="Measure on every node of a Ray cluster, and compare them (docs/fleet.md).",
        ),
    ] = None,
    nodes: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="With --fleet, only nodes whose name matches.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="With --fleet, only nodes that have this label.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="With --fleet, print machines, cases and time alone.")] = False,
    mixed: Annotated[
        bool, typer.Option("--mixed", help="With --fleet, compare machines with different versions of libraries too.")
    ] = False,
    build: Annotated[
        Literal["cheapest", "once", "on-node"] | None,
        typer.Option(
            metavar="cheapest|once|on-node",
            help="With --fleet, where artifacts are built: on each node, once here, or as is cheaper (the default).",
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="URL", help="Have a server over HTTP serve the suite's services.")
    ] = None,
    tables: ShowTables = False,
) -> None:
    """Measure a suite: build, count, export, check parity, time, answer in ten lines, and write a report.

    Example: cnnbench run suites/classic.yaml --only 'resnet*' --budget 5m
    """
    if fleet is not None:
        of_one_machine = {"--resume": resume, "--target": target, "--tables": tables}
        if beside := [name for name, value in of_one_machine.items() if value]:
            raise InputError(f"{beside[0]}: expected it without --fleet; got both")
        from cnnbench.cli.fleet import Asked, run_on_fleet

        run_on_fleet(Asked(suite, fleet, out, only or [], budget, nodes or [], label or [], plan, mixed, build))
        return
    given = {"--nodes": nodes, "--label": label, "--plan": plan, "--mixed": mixed, "--build": build}
    if alone := [name for name, value in given.items() if value]:
        raise InputError(f"{alone[0]}: expected --fleet beside it; got none")
    from cnnbench.records.run_folder import new_folder
    from cnnbench.report.live import title_of
    from cnnbench.report.terminal import Progress
    from cnnbench.runner.run import run as measure

    loaded, cases = select_cases(suite, only, target)
    seconds = checked(parse_duration, budget, "--budget") if budget else loaded.budget_s
    if resume and out is None:
        raise InputError("--resume: expected --out with the folder of the run to continue; got none")
    folder = out or new_folder(loaded)
    watch = partial(Progress, console(), title=title_of(loaded.name, cases, seconds))
    ended = measure(loaded, cases, folder, budget_s=seconds, resume=resume, watch=watch)
    if ended.unwritten:
        typer.echo(f"error: {ended.unwritten}", err=True)
    if ended.empty and ended.interrupted:
        typer.echo("interrupted before a case was finished", err=True)
        raise typer.Exit(EXIT_INTERRUPTED)
    if ended.empty and ended.unwritten:
        raise typer.Exit(EXIT_NOT_ALL_MEASURED)
    records = _show_run(folder, tables).run.records
    options = [word for pattern in only or [] for word in ("--only", pattern)]
    options += ["--target", target] if target else []
    again = shlex.join(["cnnbench", "run", suite, "--out", str(folder), *options, "--resume"])
    left = f"{len(ended.left)} of {len(cases)} cases left; continue with: {again}"
    if ended.interrupted:
        typer.echo(f"interrupted with {left}", err=True)
        raise typer.Exit(EXIT_INTERRUPTED)
    if not ended.in_time:
        typer.echo(f"the budget was spent with {left}", err=True)
    found = [records[case.id] for case in cases if case.id in records]
    nothing_measured = all(record.measurement is None for record in found)
    is_wrong = any(each.status == "invalid" or (each.evaluation and each.evaluation.problem) for each in found)
    if ended.left or ended.unwritten or nothing_measured or is_wrong:
        raise typer.Exit(EXIT_NOT_ALL_MEASURED)


@app.command()
def cases(suite: SuiteName, only: Only = None, as_json: Json = False) -> None:
    """List the cases that a suite would measure.

    Example: cnnbench cases suites/classic.yaml --only '*/training/*'
    """
    _, chosen = select_cases(suite, only)
    if as_json:
        print_json([{"id": case.id, **case.model_dump()} for case in chosen])
    else:
        typer.echo("\n".join(case.id for case in chosen))


@app.command()
def report(
    folder: RunFolder,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="First profile its models layer by layer, on the run's machine.")
    ] = False,
    tables: ShowTables = False,
    as_json: Json = False,
) -> None:
    """Print a run's answer in ten lines, and rewrite its page, files and charts from its records.

    Example: cnnbench report reports/classic-epyc-2cores-20261125 --tables
    """
    from cnnbench.api import load

    if profile:
        _profile(folder)
    if as_json:
        print_frames({name: table.data for name, table in load(folder).tables.items()})
        return
    results = _show_run(folder, tables)
    if open_:
        import webbrowser

        page = results.run.folder / "report.html"
        if not (page.exists() and webbrowser.open(page.as_uri())):
            typer.echo(f"no browser could be started; open {page}", err=True)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, from any machines.")],
    reference: Annotated[
        str, typer.Option(metavar="N", help="Reference machine of the ratios: its number or name.")
    ] = "1",
    prices: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A YAML file with watts and price_per_hour per machine.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write page, tables and charts into it.")] = None,
    as_json: Json = False,
) -> None:
    """Compare runs from any machines on the cases that they share. A description, not a verdict.

    Example: cnnbench compare reports/threads-epyc-20261122/one-thread reports/threads-epyc-20261122/two-threads
    """
    from cnnbench import api
    from cnnbench.report.terminal import print_tables

    compared = api.compare(*runs, reference=reference, prices=prices)
    if as_json:
        print_frames({name: table.data for name, table in compared.tables.items()})
    else:
        print_tables(console(), [table for table in compared.tables.values() if table.is_shown])
    _warn_unreadable(compared.page.warnings)
    if out:
        typer.echo(f"report in {compared.write(out)}", err=as_json)


@app.command()
def convert(
    folder: RunFolder,
    to: Annotated[
        str,
        typer.Option(
            metavar="FORMAT", help="pytest-benchmark, github-action, bencher, pyperf, junit, csv, or parquet."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The file to write; in the run's folder if not given.")
    ] = None,
) -> None:
    """Write a run in another tool's format. What the format cannot hold is listed on standard error.

    Example: cnnbench convert reports/classic-epyc-2cores-20261125 --to csv --out classic.csv
    """
    from cnnbench.integrations import convert as formats

    files, lost = formats.convert(folder, to, out)
    for line in lost:
        typer.echo(f"note: {line}", err=True)
    for file in files:
        typer.echo(file)


def _show_run(folder: Path, with_tables: bool) -> "Results":
    """Write the run's report, and print its tables, if asked for, and its answer."""
    from cnnbench.api import Results, load
    from cnnbench.report.answer import lines
    from cnnbench.report.terminal import print_answer, print_tables

    results = load(folder)
    if with_tables:
        there = {id_: record for id_, record in results.run.records.items() if record.status != "unavailable"}
        print_tables(console(), list(Results(replace(results.run, records=there)).tables.values()))
    _warn_unreadable(results.run.unreadable)
    try:
        where = str(results.write())
    except OSError as error:
        where = f"not written: {error.strerror}"
    print_answer(console(), lines(results.answer, where))
    return results


def _profile(folder: Path) -> None:
    from cnnbench.records.run_folder import read_run
    from cnnbench.runner.tasks.layer_profile import profile_run

    def go_on(model: str, number: int, count: int) -> bool:
        typer.echo(f"[{number}/{count}] {model}: profiling", err=True)
        return True

    _warn_unreadable(profile_run(read_run(folder), go_on))


def _warn_unreadable(lines: Sequence[str]) -> None:
    for line in lines:
        typer.echo(f"warning: {line}", err=True)

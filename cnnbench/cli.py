"""The command line: parse, call, exit code; nothing else.

Exit codes: 0 all well; 1 `verify` found a disagreement; 2 bad input; 3 a case failed, is invalid or was not reached;
130 interrupted. Heavy modules are imported inside the commands that need them, so that `--help` answers at once.
"""

import shlex
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from cnnbench import __version__
from cnnbench.errors import CnnbenchError, InputError, RunFolderError
from cnnbench.report.plain import print_frames, print_json, print_rows
from cnnbench.units import MB, parse_duration, parse_image_size

T = TypeVar("T")

app = typer.Typer(
    help="Which CNN, in which runtime, on which hardware, how fast, and why.\n\n"
    "Example: cnnbench run suites/smoke.yaml",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

EXIT_DISAGREE, EXIT_NOT_ALL_MEASURED, EXIT_INTERRUPTED = 1, 3, 130

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
ImageSize = Annotated[
    str | None,
    typer.Option(metavar="N|HxW", help="Image size, such as 224 or 480x640; the model's own if not given."),
]
Classes = Annotated[int | None, typer.Option(min=1, help="Number of classes; the model's own if not given.")]
SuiteName = Annotated[str, typer.Argument(help="A YAML file, or the name of a suite that comes with cnnbench.")]
Only = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="Only cases whose id fits, such as 'resnet*/inference/*'."),
]


class Listed(StrEnum):
    """What `cnnbench list` can list."""

    models = "models"
    runtimes = "runtimes"
    devices = "devices"
    suites = "suites"


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
    cases = _select(loaded.cases, only)
    seconds = _parse(parse_duration, budget, "--budget") if budget else loaded.budget_s
    if resume and out is None:
        raise InputError("--resume: expected --out with the folder of the run to go on with; got none")
    folder = out or stores.new_folder(loaded)
    about = environment([case.threads or usable_threads() for case in cases], loaded.path.resolve().parent)
    interrupted = reached = False
    with stores.Store(folder, loaded, about, resume=resume) as store:
        finished = store.finished()
        try:
            with Progress(_console(), len(cases), sum(case.id in finished for case in cases)) as progress:
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

    chosen = _select(load_suite(suite).cases, only)
    if as_json:
        print_json([{"id": case.id, **case.model_dump()} for case in chosen])
    else:
        typer.echo("\n".join(case.id for case in chosen))


@app.command(name="list")
def list_(what: Annotated[Listed, typer.Argument(help="What to list.")], as_json: Json = False) -> None:
    """The models, runtimes, devices or suites that there are; devices are tried, not just looked up.

    Example: cnnbench list models
    """
    from cnnbench import listing

    rows = {
        Listed.models: listing.models,
        Listed.runtimes: listing.runtimes,
        Listed.devices: listing.devices,
        Listed.suites: listing.suites,
    }[what]()
    if as_json:
        print_json(rows)
    else:
        print_rows(rows)


@app.command()
def count(
    models: Annotated[list[str], typer.Argument(help="Names from `cnnbench list models`.")],
    image_size: ImageSize = None,
    classes: Classes = None,
    batch: Annotated[int, typer.Option(min=1, help="Images; MACs and output shapes are for all of them.")] = 1,
    as_json: Json = False,
) -> None:
    """Parameters and MACs in closed form, layer by layer. 1 MAC = 2 FLOP.

    Example: cnnbench count resnet18 mobilenet_v2 --image-size 192
    """
    from cnnbench.archs import catalogue

    size = _parse(parse_image_size, image_size, "--image-size") if image_size else None
    networks = [catalogue.get(model).network(size, classes) for model in models]
    if as_json:
        totals = [{"model": n.name, "params": n.params, "macs": n.macs * batch} for n in networks]
        print_json([{**total, "layers": n.as_rows(batch)} for total, n in zip(totals, networks, strict=True)])
        return
    for network in networks:
        typer.echo(f"{network.name}: {network.params:,} parameters, {network.macs * batch:,} MACs")
        print_rows([row for row in network.as_rows(batch) if row["params"] or row["macs"]])


@app.command()
def verify(
    models: Annotated[list[str] | None, typer.Argument(help="Models; all that have a closed form if none.")] = None,
    image_size: ImageSize = None,
    classes: Classes = None,
    as_json: Json = False,
) -> None:
    """Every witness of each model's counts side by side: formula, module, dispatch counter, fvcore, published figures.

    Exits with 0 only when all agree, layer by layer. Example: cnnbench verify resnet18 lenet5
    """
    from cnnbench.archs import catalogue
    from cnnbench.verify import verify as verify_models

    specs = [_spec(model, image_size, classes) for model in models or catalogue.ARCHS]
    verdicts = []
    for verdict in verify_models(specs):
        verdicts.append(verdict)
        if not as_json:
            said = {"params": verdict.params, "MACs": verdict.macs}
            typer.echo(f"{verdict.model}: {'all agree' if verdict.agree else 'DISAGREE'}")
            for figure, by_witness in said.items():
                typer.echo(f"  {figure:7}" + ", ".join(f"{name} {value:,}" for name, value in by_witness.items()))
            if verdict.published_params is not None:
                macs = f"{verdict.published_giga_macs} G MACs" if verdict.published_giga_macs else "no MACs"
                typer.echo(f"  published {verdict.published_params:,} parameters, {macs}")
            for line in [
                *verdict.disagreements,
                *(f"{name} was silent: {why}" for name, why in verdict.silent.items()),
            ]:
                typer.echo(f"  ! {line}")
    if as_json:
        print_json([{**verdict.model_dump(), "agree": verdict.agree} for verdict in verdicts])
    if not all(verdict.agree for verdict in verdicts):
        raise typer.Exit(EXIT_DISAGREE)


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A model's name.")],
    out: Annotated[Path, typer.Option(help="The file to write, such as resnet18.onnx.")],
    image_size: ImageSize = None,
    classes: Classes = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the random weights.")] = 0,
    as_json: Json = False,
) -> None:
    """Export a model to ONNX with a dynamic batch, checked by onnx and proved against float64.

    Example: cnnbench export resnet18 --out resnet18.onnx
    """
    from cnnbench.export import export_model

    done = export_model(_spec(model, image_size, classes, seed), out)
    if as_json:
        print_json(done.model_dump())
        return
    errors = ", ".join(f"{parity.error:.1e} at {parity.what}" for parity in done.parity)
    typer.echo(f"{done.file}: {done.onnx_bytes / MB:.1f} MB, opset {done.opset}, dynamic batch, checked by onnx")
    typer.echo(f"parity with float64, relative to the signal: {errors}; limit {done.parity[0].limit:.0e}")


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
        print_tables(_console(), compare_tables(read))
        _warn_unreadable([line for run in read for line in run.unreadable])


@app.command()
def doctor(as_json: Json = False) -> None:
    """What this machine is, what will disturb a measurement, and which devices really work.

    Example: cnnbench doctor
    """
    from cnnbench import artifact, listing, machine

    about = machine.environment([machine.usable_threads()], Path.cwd())
    disturbances = machine.disturbances()
    devices = listing.devices()
    if as_json:
        print_json({**about, "disturbances": disturbances, "devices": devices, "cache": str(artifact.cache_folder())})
        return
    for heading in ("machine", "state", "threads", "software"):
        typer.echo(heading)
        for key, value in about[heading].items():
            typer.echo(f"  {key:22} {value}")
    typer.echo(f"cache\n  {artifact.cache_folder()}")
    typer.echo("devices")
    print_rows(devices)
    typer.echo("what will disturb a measurement" if disturbances else "nothing found that would disturb a measurement")
    for disturbance in disturbances:
        typer.echo(f"  - {disturbance}")


@app.command()
def schema() -> None:
    """The JSON Schema of suite files, for editors.

    Example: cnnbench schema > suite.schema.json
    """
    from cnnbench.suite_file import json_schema

    print_json(json_schema())


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
    print_tables(_console(), tables)
    _warn_unreadable(result.unreadable)
    typer.echo(f"{len(result.records)} records in {folder}; {where}")
    return result


def _warn_unreadable(lines: list[str]) -> None:
    for line in lines:
        typer.echo(f"warning: {line}", err=True)


def _spec(model: str, image_size: str | None, classes: int | None, seed: int = 0) -> Any:
    """A model as the command line names it, its sizes checked where its closed form is known."""
    from cnnbench.archs import catalogue
    from cnnbench.case import ModelSpec

    _parse(catalogue.check_name, model, "MODEL")
    size = catalogue.full_size(model, _parse(parse_image_size, image_size, "--image-size") if image_size else None)
    arch = catalogue.find(model)
    if arch:
        arch.network(size, classes)
        classes = classes or arch.classes
    return ModelSpec(model=model, image_size=size, classes=classes, seed=seed)


def _select(all_cases: Any, only: list[str] | None) -> Any:
    chosen = [case for case in all_cases if not only or any(case.matches(pattern) for pattern in only)]
    if not chosen:
        raise InputError(
            f"--only: expected a pattern that fits a case such as {all_cases[0].id!r}; "
            f"{only} fits none of {len(all_cases)}"
        )
    return chosen


def _parse(parser: Callable[[str], T], text: str, option: str) -> T:
    try:
        return parser(text)
    except ValueError as error:
        raise InputError(f"{option}: {error}") from None


def _console() -> Any:
    """The terminal; where output goes elsewhere, wide enough that no table is cut."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=160)

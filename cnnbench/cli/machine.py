"""Commands about what is available: this machine's state and peaks, models, runtimes, devices, suites."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cnnbench.cli.common import Json
from cnnbench.errors import InputError
from cnnbench.report.plain import print_json, print_rows

app = typer.Typer()
Listed = Literal["models", "runtimes", "devices", "suites"]
DeviceName = Literal["cpu", "cuda"]


@app.command(name="list")
def list_(
    what: Annotated[Listed, typer.Argument(metavar="models|runtimes|devices|suites", help="What to list.")],
    as_json: Json = False,
) -> None:
    """List models, runtimes, devices or suites. Each runtime is tested on each device.

    Example: cnnbench list models
    """
    rows = {"models": _models, "runtimes": _runtimes, "devices": _devices, "suites": _suites}[what]()
    (print_json if as_json else print_rows)(list(rows))


def _models() -> Iterator[dict[str, Any]]:
    from cnnbench.networks.registry import ARCHITECTURES

    for architecture in ARCHITECTURES.values():
        network = architecture.network()
        yield {
            "model": architecture.name,
            "input": "x".join(map(str, architecture.image)),
            "classes": architecture.classes,
            "params": network.params,
            "macs": network.macs,
            "module": "torchvision" if architecture.from_torchvision else "cnnbench",
            "source": architecture.source,
        }


def _runtimes() -> Iterator[dict[str, Any]]:
    from cnnbench.records.toolchain import engine_versions, library_versions
    from cnnbench.suite.runtimes import runtimes

    versions = {**library_versions(), **engine_versions()}
    for kind in runtimes().values():
        axes = ("variants", "workloads", "precisions", "layouts")
        yield {
            "runtime": kind.name,
            **{axis: ", ".join(getattr(kind, axis)) for axis in axes},
            "library": ", ".join(f"{name} {versions[name]}" for name in kind.libraries if name in versions)
            or kind.install,
            "what": kind.what,
        }


def _devices() -> Iterator[dict[str, Any]]:
    from cnnbench.runner.scratch import scratch_folder
    from cnnbench.runner.tasks.probe import probe_all

    with scratch_folder() as logs:
        probed = probe_all(logs)
    for (runtime, device), found in probed.items():
        works = "yes" if found.works else "no"
        yield {"device": device, "runtime": runtime, "works": works, "why": found.reason or found.name}


def _suites() -> Iterator[dict[str, Any]]:
    from cnnbench.suite.load import bundled_suites, load_suite

    for path in bundled_suites().values():
        suite = load_suite(str(path))
        yield {"suite": suite.name, "cases": len(suite.cases), "description": suite.description}


@app.command()
def doctor(
    peaks: Annotated[
        bool, typer.Option("--peaks", help="Measure the machine's peaks; takes about ten seconds per device.")
    ] = False,
    device: Annotated[DeviceName, typer.Option(metavar="cpu|cuda", help="With --peaks: the device.")] = "cpu",
    threads: Annotated[
        int | None, typer.Option(min=1, help="With --peaks: CPU threads; every physical core if not given.")
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="With --peaks: write into this run, for its own devices and threads."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what this machine is, what may interfere with a measurement, and which devices work.

    Example: cnnbench doctor
    Example: cnnbench doctor --peaks --threads 1
    """
    from cnnbench.records.cache import cache_folder
    from cnnbench.runner import machine

    if peaks:
        _peaks(device, threads or machine.usable_threads(), into, as_json)
        return
    if into or threads:
        raise InputError("--into, --threads: expected them with --peaks; got them without")
    about = machine.environment([machine.usable_threads()], Path.cwd()).model_dump(mode="json")
    interference, devices, cache = machine.interference(), list(_devices()), str(cache_folder())
    int8 = machine.int8_fit()
    if as_json:
        print_json({**about, "interference": interference, "devices": devices, "cache": cache, "int8": int8})
        return
    for heading in ("machine", "state", "threads", "software"):
        typer.echo(heading)
        for key, value in about[heading].items():
            typer.echo(f"  {key:22} {value}")
    typer.echo(f"cache\n  {cache}\ndevices")
    print_rows(devices)
    typer.echo(f"int8\n  {int8}")
    typer.echo("possible interference" if interference else "no interference found")
    for each in interference:
        typer.echo(f"  - {each}")


def _peaks(device: DeviceName, threads: int, into: Path | None, as_json: bool) -> None:
    """Measure peaks, print them, and write them into a run's folder if given."""
    from cnnbench.records.peaks import write_peaks
    from cnnbench.records.run_folder import read_run
    from cnnbench.report.peaks import peaks_lines
    from cnnbench.runner import machine
    from cnnbench.runner.tasks.peaks import peaks_for_run, peaks_of

    wanted = peaks_for_run(read_run(into)) if into else [(device, threads)]
    about = machine.environment([], Path.cwd())
    found = [peaks_of(*each, about, anew=True) for each in wanted]
    if into:
        write_peaks(into, found)
    if as_json:
        print_json([peaks.model_dump(mode="json") for peaks in found])
        return
    for peaks in found:
        typer.echo("\n".join(peaks_lines(peaks)))
    if into:
        typer.echo(f"written into {into}; `cnnbench report {into}` shows what limits each case")


@app.command()
def schema() -> None:
    """Print the JSON Schema of suite files, for editors.

    Example: cnnbench schema > suite.schema.json
    """
    from cnnbench.suite.schema import json_schema

    print_json(json_schema())

"""Commands about this machine and the format of suites."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cnnbench.cli.common import Json
from cnnbench.errors import InputError
from cnnbench.report.plain import print_json, print_rows

app = typer.Typer()


class DeviceName(StrEnum):
    """What ceilings can be measured of."""

    cpu = "cpu"
    cuda = "cuda"


@app.command()
def doctor(
    peaks: Annotated[
        bool, typer.Option("--peaks", help="Measure what it can do at best, which takes some ten seconds.")
    ] = False,
    device: Annotated[DeviceName, typer.Option(help="With --peaks: the device.")] = DeviceName.cpu,
    threads: Annotated[
        int | None, typer.Option(min=1, help="With --peaks: CPU threads; every physical core if not given.")
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="With --peaks: a run of this machine that they are written into, for its own devices and threads.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """What this machine is, what will disturb a measurement, and which devices really work.

    Example: cnnbench doctor
    Example: cnnbench doctor --peaks --threads 1
    """
    from cnnbench.cli import listing
    from cnnbench.records import artifact
    from cnnbench.runner import machine

    if peaks:
        _peaks(device, threads or machine.usable_threads(), into, as_json)
        return
    if into or threads:
        raise InputError("--into and --threads: expected --peaks beside them")
    about = machine.environment([machine.usable_threads()], Path.cwd())
    interference = machine.interference()
    devices = listing.devices()
    if as_json:
        print_json({**about, "disturbances": interference, "devices": devices, "cache": str(artifact.cache_folder())})
        return
    for heading in ("machine", "state", "threads", "software"):
        typer.echo(heading)
        for key, value in about[heading].items():
            typer.echo(f"  {key:22} {value}")
    typer.echo(f"cache\n  {artifact.cache_folder()}")
    typer.echo("devices")
    print_rows(devices)
    typer.echo("what will disturb a measurement" if interference else "nothing found that would disturb a measurement")
    for disturbance in interference:
        typer.echo(f"  - {disturbance}")


def _peaks(device: DeviceName, threads: int, into: Path | None, as_json: bool) -> None:
    """Measure ceilings, show them, and write them into a run's folder where asked."""
    from cnnbench.records.peaks import write_peaks
    from cnnbench.records.run_folder import read_run
    from cnnbench.report import peaks_text
    from cnnbench.runner import machine
    from cnnbench.runner.tasks.peaks import peaks_for_run, peaks_of
    from cnnbench.suite.case import Device

    asked: Device = "cuda" if device is DeviceName.cuda else "cpu"
    wanted = peaks_for_run(read_run(into)) if into else [(asked, threads)]
    about = machine.environment([], Path.cwd())
    found = [peaks_of(*each, about, anew=True) for each in wanted]
    if into:
        write_peaks(into, found)
    if as_json:
        print_json([peaks.model_dump(mode="json") for peaks in found])
        return
    for peaks in found:
        typer.echo("\n".join(peaks_text.lines(peaks)))
    if into:
        typer.echo(f"written into {into}; `cnnbench report {into}` tells what binds each case")


@app.command()
def schema() -> None:
    """The JSON Schema of suite files, for editors.

    Example: cnnbench schema > suite.schema.json
    """
    from cnnbench.suite.schema import json_schema

    print_json(json_schema())

"""Commands about this machine and the format of suites."""

from pathlib import Path

import typer

from cnnbench.cli.common import Json
from cnnbench.report.plain import print_json, print_rows

app = typer.Typer()


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

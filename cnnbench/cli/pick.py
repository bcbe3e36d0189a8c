"""The choice of a network and a runtime from measured runs."""

from pathlib import Path
from typing import Annotated

import typer

from cnnbench.cli.common import EXIT_NOT_ALL_MEASURED, Json, console, finite
from cnnbench.errors import InputError, unknown
from cnnbench.networks.units import MB
from cnnbench.report.plain import print_frames
from cnnbench.suite.parse import checked, parse_bytes, parse_duration

app = typer.Typer()

PUBLISHED = "published"


@app.command()
def pick(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, from any machines.")],
    p50: Annotated[
        str | None, typer.Option(metavar="TIME", help="The longest median time of a call, such as 20ms.")
    ] = None,
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="The most memory at peak, such as 200MB.")] = None,
    accuracy: Annotated[
        float | None,
        typer.Option(metavar="PERCENT", min=0, max=100, callback=finite, help="The least top-1 accuracy."),
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="The largest ONNX file, or weights, such as 20MB.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|published",
            help="The data set that --accuracy was measured on, or torchvision's. Default: measured, if any was.",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images in a call.")] = 1,
    as_json: Json = False,
) -> None:
    """Pick a network and a runtime: what meets all bounds with its whole interval, what may, what just fails.

    Only what was measured is judged; the command that measures what is missing is printed. Exit code 3 if nothing was
    measured at the batch.

    Example: cnnbench pick reports/classic-epyc-2cores-20261125 --p50 20ms --memory 200MB --accuracy 70
    """
    from cnnbench.analysis import pick as analysis
    from cnnbench.api import load
    from cnnbench.report.picked import picked_lines, picked_tables
    from cnnbench.report.terminal import print_lines, print_tables

    bounds: analysis.Bounds = {}
    if p50 is not None:
        bounds["p50"] = 1e3 * checked(parse_duration, p50, "--p50")
    if memory is not None:
        bounds["memory"] = checked(parse_bytes, memory, "--memory") / MB
    if accuracy is not None:
        bounds["accuracy"] = accuracy
    if size is not None:
        bounds["size"] = checked(parse_bytes, size, "--size") / MB
    loaded = [load(folder).run for folder in runs]
    known = [*analysis.evaluated_on(loaded), PUBLISHED]
    if data is not None and data not in known:
        raise InputError(f"--data: {unknown('data set', data, known)}")
    found = analysis.pick(loaded, bounds, batch, "" if data == PUBLISHED else data)
    tables = picked_tables(found)
    if as_json:
        print_frames({table.name: table.data for table in tables})
    else:
        print_tables(console(), tables)
        print_lines(console(), picked_lines(found))
    if not tables:
        raise typer.Exit(EXIT_NOT_ALL_MEASURED)

"""The command that writes a run for other tools."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def convert(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
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
    """A run in another tool's format; what it cannot hold is told on standard error.

    Example: cnnbench convert runs/smoke-20260101-120000 --to pytest-benchmark
    """
    from cnnbench.integrations import convert as formats

    files, lost = formats.convert(folder, to, out)
    for line in lost:
        typer.echo(f"note: {line}", err=True)
    for file in files:
        typer.echo(file)

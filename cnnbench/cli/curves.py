"""The command that draws training runs."""

from pathlib import Path
from typing import Annotated

import typer

from cnnbench.cli import common
from cnnbench.cli.common import Json
from cnnbench.report.plain import print_json

app = typer.Typer()


@app.command()
def curves(
    histories: Annotated[list[Path], typer.Argument(help="Files that `cnnbench train` writes: X.history.jsonl.")],
    out: Annotated[Path | None, typer.Option(help="A picture, such as curves.png or .svg.")] = None,
    as_json: Json = False,
) -> None:
    """Compare training runs: loss and accuracy over epochs and over seconds in one picture, and time to accuracy.

    Example: cnnbench curves lenet5-ort.history.jsonl lenet5-eager.history.jsonl --out curves.png
    """
    from cnnbench.records import training_history
    from cnnbench.report import curves as drawn

    if out is not None:
        common.check_picture(out, "--out")
    found = {str(file).removesuffix(training_history.ENDING): training_history.read(file) for file in histories}
    if out is not None:
        common.write_picture(out, drawn.chart(found))
    if as_json:
        print_json({name: history.model_dump() for name, history in found.items()})
    else:
        typer.echo("\n".join(drawn.text(found)))

"""The command that tells where a model's time goes."""

from typing import Annotated

import typer

from cnnbench.cli.common import EXIT_NOT_ALL_MEASURED, Classes, ImageSize, Json, spec
from cnnbench.report.plain import print_json

app = typer.Typer()


@app.command()
def profile(
    model: Annotated[str, typer.Argument(help="A model's name; one without a closed form is read as it runs.")],
    image_size: ImageSize = None,
    classes: Classes = None,
    batch: Annotated[int, typer.Option(min=1, help="Images per call.")] = 1,
    calls: Annotated[int, typer.Option(min=1, help="Calls that are profiled, after a few that warm up.")] = 20,
    as_json: Json = False,
) -> None:
    """Time of each layer in PyTorch and ONNX Runtime on the CPU, by their own profilers, beside its MACs and bytes.

    Names the slowest layers, and those that are slow for their work. Nothing here is comparable with `cnnbench run`.
    Example: cnnbench profile mobilenet_v2 --batch 8
    """
    from cnnbench.report import layer_times
    from cnnbench.runner.tasks.layer_profile import profile_model

    found = profile_model(spec(model, image_size, classes), batch, calls)
    if as_json:
        print_json(layer_times.as_json(found))
    else:
        typer.echo("\n".join(layer_times.text(found)))
    if found.failures:
        raise typer.Exit(EXIT_NOT_ALL_MEASURED)

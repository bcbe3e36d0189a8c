"""The command that evaluates a trained model."""

from pathlib import Path
from typing import Annotated

import typer

from cnnbench.cli import common
from cnnbench.cli.common import Channels, Classes, Data, ImageSize, Json, spec
from cnnbench.errors import InputError
from cnnbench.report.plain import print_json
from cnnbench.suite.parse import checked

app = typer.Typer()


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A model's name, an ONNX file, or a .pt2 program.")],
    data: Data,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|DEFAULT",
            help="Weights: a file, or those published for it; ONNX files and .pt2 programs have them.",
        ),
    ] = None,
    runtime: Annotated[
        list[str] | None, typer.Option(help="A runtime, with its variant if it has one; for each. Default: eager, ort.")
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            metavar="fp32|bf16|int8|...",
            help="For each; in the runtimes that have it. int8 is calibrated with training images.",
        ),
    ] = None,
    confusion: Annotated[
        Path | None, typer.Option(help="A picture of the confusion matrices, such as confusion.png or .svg.")
    ] = None,
    image_size: ImageSize = None,
    classes: Classes = None,
    channels: Channels = None,
    as_json: Json = False,
) -> None:
    """Evaluate a trained model on a data set's test images: accuracy with its interval, by class, and confusions.

    Each runtime classifies the same images in a process of its own. Two are compared by McNemar's exact test, and the
    images that they put into different classes are listed by number, from 0.

    Example: cnnbench evaluate simple_cnn --weights simple_cnn-ort.safetensors --data /usr/share/datasets/fashion-mnist
    """
    from rich.progress import Progress

    from cnnbench.records import dataset
    from cnnbench.records.training_history import prepared_otherwise
    from cnnbench.report import evaluated
    from cnnbench.report.terminal import can_redraw
    from cnnbench.runner.tasks.evaluate import cases_of
    from cnnbench.runner.tasks.evaluate import evaluate as run
    from cnnbench.suite import runtimes

    if weights is None and not model.endswith((".onnx", ".pt2")):
        raise InputError(f"--weights: expected a file of weights of {model}, such as `cnnbench train` writes")
    if confusion is not None:
        common.check_picture(confusion, "--confusion")
    chosen = spec(model, image_size, classes, channels=channels, weights=weights)
    names = [checked(runtimes.check_name, each, "--runtime") for each in runtime or ["eager", "ort"]]
    if runtime is None and chosen.is_onnx_file:
        names = ["ort"]
    cases = cases_of(chosen, names, precision or ["fp32"], data)
    if weights is not None and (fault := prepared_otherwise(Path(weights), data)):
        typer.echo(f"warning: {fault}", err=True)
    terminal = common.console()
    with Progress(console=terminal, disable=as_json or not can_redraw(terminal), transient=True) as progress:
        bar = progress.add_task("building", total=None)

        def watch(backend: str, done: int, total: int) -> None:
            progress.update(bar, description=f"{backend}, images", completed=done, total=total)

        found = run(cases, dataset.find(data), watch)
    if confusion is not None:
        common.write_picture(confusion, evaluated.chart(found))
    if as_json:
        print_json({"model": chosen.label, "data": data, **evaluated.as_json(found)})
    else:
        typer.echo("\n".join(evaluated.text(found)))

"""Commands about a model's layers: their times, their errors, and what they put out."""

from pathlib import Path
from typing import Annotated

import typer

from cnnbench.cli import common
from cnnbench.cli.common import (
    AnyModel,
    Channels,
    Classes,
    ImageSize,
    Inputs,
    Json,
    Weights,
    spec,
)
from cnnbench.errors import InputError
from cnnbench.report.plain import print_json
from cnnbench.suite.parse import checked, parse_bytes

app = typer.Typer()

GroupMemory = Annotated[
    str, typer.Option(help="The most that the values of a group of layers may take, such as 500MB or 2GB.")
]


@app.command()
def profile(
    model: AnyModel,
    image_size: ImageSize = None,
    classes: Classes = None,
    channels: Channels = None,
    inputs: Inputs = None,
    batch: Annotated[int, typer.Option(min=1, max=2**40, help="Images per call.")] = 1,
    calls: Annotated[int, typer.Option(min=1, help="Profiled calls, after a few warm-up calls.")] = 20,
    weights: Weights = None,
    as_json: Json = False,
) -> None:
    """Profile each layer's time in PyTorch and ONNX Runtime on the CPU, beside its MACs and bytes.

    Lists the slowest and the least efficient layers (fewest MAC/s). Do not compare these times with `cnnbench run`.

    Example: cnnbench profile mobilenet_v2 --batch 8
    """
    from cnnbench.report import layer_times
    from cnnbench.runner.tasks.layer_profile import profile_model

    found = profile_model(spec(model, image_size, classes, 0, channels, inputs, weights), batch, calls)
    if as_json:
        print_json(layer_times.as_json(found))
    else:
        typer.echo("\n".join(layer_times.text(found)))
    if found.failures:
        raise typer.Exit(common.EXIT_NOT_ALL_MEASURED)


@app.command()
def diverge(
    model: AnyModel,
    runs: Annotated[
        list[str],
        typer.Argument(help="RUNTIME or RUNTIME/PRECISION, such as eager, ort:disabled or ort/int8, or an ONNX file."),
    ],
    image_size: ImageSize = None,
    classes: Classes = None,
    channels: Channels = None,
    inputs: Inputs = None,
    batch: Annotated[int, typer.Option(min=1, max=64, help="Reference images.")] = 2,
    weights: Weights = None,
    memory: GroupMemory = "1GB",
    page: Annotated[
        Path | None, typer.Option(help="An HTML file to write: heat map, maps of the worst layers.")
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(help="A folder for each graph with the errors in its nodes' metadata, and Model Explorer's data."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Find the layer where a run differs from float64: each layer's error, what it adds and what it inherits.

    Exit code 0 if rounding explains all, 1 if a layer is worse, or the model's exported program is another.

    Example: cnnbench diverge resnet18 ort eager/amp-bf16 --page layers.html
    Example: cnnbench diverge resnet18 exported.onnx --weights best.safetensors --export annotated
    """
    from functools import partial

    from cnnbench.report import divergence
    from cnnbench.runner.tasks import annotate
    from cnnbench.runner.tasks import diverge as task

    limit_bytes = checked(parse_bytes, memory, "--memory")
    contenders = [checked(partial(task.parse_contender, model=model), each, "RUN") for each in dict.fromkeys(runs)]
    if page:
        common.check_output(page, "--page")
    chosen = spec(model, image_size, classes, 0, channels, inputs, weights)
    if export:
        annotate.check_graphs(contenders)
        common.check_output(export, "--export", is_folder=True)
        found = task.diverge(chosen, contenders, batch, limit_bytes, partial(annotate.export_errors, export))
    else:
        found = task.diverge(chosen, contenders, batch, limit_bytes)
    if page:
        from cnnbench.records import files
        from cnnbench.report.divergence_page import page as page_of

        files.write(page, page_of(found))
    if as_json:
        print_json(divergence.as_json(found))
    else:
        typer.echo("\n".join(divergence.text(found)))
    if found.is_other_program or any(run.first for run in found.runs):
        raise typer.Exit(common.EXIT_DISAGREE)


@app.command(name="inspect")
def inspect_layers(
    model: AnyModel,
    image_size: ImageSize = None,
    classes: Classes = None,
    channels: Channels = None,
    inputs: Inputs = None,
    weights: Weights = None,
    image: Annotated[Path | None, typer.Option(help="A picture, or numbers (.npy, .csv, .txt).")] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar=common.DATA, help="Test images of a data set, as of `cnnbench evaluate`."),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Images; 16 of --data, 2 reference images if not given.")
    ] = None,
    layers: Annotated[str, typer.Option(metavar="GLOB", help="Layers by name, such as 'layer1.*'.")] = "*",
    runs: Annotated[
        list[str] | None, typer.Option("--run", help="What to show beside float64: ort, eager/amp-bf16, an ONNX file.")
    ] = None,
    memory: GroupMemory = "1GB",
    out: Annotated[
        Path | None, typer.Option(help="A folder for the page and PNG files; MODEL-layers if not given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what each layer puts out: feature maps, histograms, dead units, kernels, receptive fields.

    Images are one of yours, a data set's, or reference images.

    Example: cnnbench inspect resnet18 --weights DEFAULT --image cat.jpg --layers 'layer1.*'
    Example: cnnbench inspect lenet5 --data /usr/share/datasets/fashion-mnist
    """
    from functools import partial

    from cnnbench.records import dataset, files
    from cnnbench.records.artifact import file_name
    from cnnbench.report import inspection
    from cnnbench.runner.tasks import diverge as task
    from cnnbench.runner.tasks.inspect import inspect_model

    contenders = [checked(partial(task.parse_contender, model=model), each, "--run") for each in runs or ["ort"]]
    limit_bytes = checked(parse_bytes, memory, "--memory")
    if image and (data or batch):
        raise InputError("--image: is one image, instead of --data and --batch; give it alone")
    if image and not image.is_file():
        raise InputError(f"--image: {str(image)!r}: there is no such file")
    shown = dataset.find(data) if data else image
    chosen = spec(model, image_size, classes, 0, channels, inputs, weights)
    count = batch or (1 if image else 16 if data else 2)
    folder = out or Path(f"{file_name(chosen.label)}-layers")
    common.check_output(folder, "--out", is_folder=True)
    found = inspect_model(chosen, shown, layers, contenders, count, limit_bytes)
    folder.mkdir(parents=True, exist_ok=True)
    files.write(folder / "layers.html", inspection.page(found))
    for picture in inspection.all_pictures(found):
        files.write(folder / f"{picture.name}.png", picture.png)
    if as_json:
        print_json(inspection.as_json(found))
    else:
        typer.echo(f"{folder / 'layers.html'}: {len(found.layers)} layers, and their pictures as PNG beside it")

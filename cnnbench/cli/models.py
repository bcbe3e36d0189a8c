"""Commands about models: their layers and counts, cross-checks, export, layer times, and training."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from cnnbench.cli import common
from cnnbench.cli.common import (
    AnyModel,
    Channels,
    Classes,
    Data,
    ImageSize,
    Inputs,
    Json,
    Loss,
    Trainable,
    Weights,
    WhatIf,
    architecture_of,
    size_of,
    spec,
)
from cnnbench.cli.recipe import (
    Clip,
    Every,
    Gamma,
    HeldOut,
    Patience,
    Resume,
    ScheduleName,
    Smoothing,
    Transforms,
    Warmup,
    schedule_of,
    transforms_of,
)
from cnnbench.errors import InputError
from cnnbench.networks.units import MB
from cnnbench.report.format import format_seconds
from cnnbench.report.plain import print_json, print_rows
from cnnbench.suite.parse import checked, parse_bytes

if TYPE_CHECKING:
    from cnnbench.suite.optimizer import Optimizer

app = typer.Typer()

Batch = Annotated[int, typer.Option(min=1, max=2**40, help="Images; work and output shapes are for all of them.")]
OptimizerKind: TypeAlias = Literal["sgd", "adam", "adamw"]
OptimizerName = Annotated[OptimizerKind, typer.Option("--optimizer", help="torch.optim's SGD, Adam or AdamW.")]
Momentum = Annotated[float, typer.Option(min=0.0, max=0.999, callback=common.finite, help="Momentum of SGD alone.")]
WeightDecay = Annotated[
    float,
    typer.Option(
        min=0.0, callback=common.finite, help="Weight decay: added to the gradient, of AdamW taken from the weights."
    ),
]
FrozenNorm = Annotated[
    Literal["eval", "train"],
    typer.Option(help="Mode of batch normalisation in what --trainable leaves out."),
]
GroupMemory = Annotated[
    str, typer.Option(help="The most that the values of a group of layers may take, such as 500MB or 2GB.")
]


@app.command()
def count(
    models: Annotated[
        list[str] | None, typer.Argument(help="Names from `cnnbench list models`; all if none given.")
    ] = None,
    image_size: ImageSize = None,
    classes: Classes = None,
    batch: Batch = 1,
    what_if: WhatIf = None,
    as_json: Json = False,
) -> None:
    """Count parameters and MACs in closed form, layer by layer. 1 MAC = 2 FLOP.

    Example: cnnbench count resnet18 mobilenet_v2 --image-size 192
    """
    from cnnbench.networks import registry

    size = size_of(image_size)
    if what_if and not models:
        raise InputError("--what-if: expected a model, such as `cnnbench count mobilenet_v2 --what-if width=0.75`")
    networks = [architecture_of(model, what_if).network(size, classes) for model in models or registry.ARCHITECTURES]
    totals = [{"model": n.name, "params": n.params, "macs": n.macs * batch} for n in networks]
    if as_json:
        print_json([{**total, "layers": n.as_rows(batch)} for total, n in zip(totals, networks, strict=True)])
        return
    if not models:
        print_rows(totals)
        return
    for model, network in zip(models, networks, strict=True):
        typer.echo(f"{network.name}: {network.params:,} parameters, {network.macs * batch:,} MACs")
        if what_if:
            usual = registry.get(model).network(size, classes)
            ratios = network.params / usual.params, network.macs / usual.macs
            typer.echo(f"  {ratios[0]:.3g} x the parameters and {ratios[1]:.3g} x the MACs of {model}")
        columns = ("name", "op", "output_shape", "params", "macs")
        rows = [{column: row[column] for column in columns} for row in network.as_rows(batch)]
        print_rows([row for row in rows if row["params"] or row["macs"]])


@app.command()
def show(
    model: AnyModel,
    image_size: ImageSize = None,
    classes: Classes = None,
    channels: Channels = None,
    inputs: Inputs = None,
    batch: Batch = 1,
    trainable: Trainable = "all",
    what_if: WhatIf = None,
    formula: Annotated[
        bool, typer.Option("--formula", help="Totals as expressions in classes and image size.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show every layer with its formulas and numbers, totals, the cost of training, and the largest layers.

    Example: cnnbench show resnet18 --batch 8
    Example: cnnbench show resnet18 --trainable head
    """
    from cnnbench.networks import registry
    from cnnbench.networks.trainable import check_part, freeze
    from cnnbench.report import model_summary

    checked(registry.check_name, model, "MODEL")
    if formula:
        shown = model_summary.formula_of(architecture_of(model, what_if))
        print_json(shown) if as_json else typer.echo(model_summary.formula_text(shown))
        return
    left_out: list[str] = []
    if registry.find(model) or what_if:
        network = architecture_of(model, what_if).network(size_of(image_size), classes)
    else:
        from cnnbench.runner.tasks.trace import read

        reading = read(spec(model, image_size, classes, 0, channels, inputs))
        network, left_out = reading.network, reading.left_out
    frozen = freeze(network, checked(check_part, trainable, "--trainable"))
    whole = None if frozen is network else network
    if as_json:
        print_json(model_summary.as_json(frozen, batch, left_out, whole))
    else:
        typer.echo("\n".join(model_summary.text(frozen, batch, left_out, whole)))


@app.command()
def verify(
    models: Annotated[list[str] | None, typer.Argument(help="Models; all with a closed form if none given.")] = None,
    image_size: ImageSize = None,
    classes: Classes = None,
    channels: Channels = None,
    inputs: Inputs = None,
    as_json: Json = False,
) -> None:
    """Cross-check each model's counts: formula, module, torch's counter, fvcore, ONNX graph, published figures.

    Exit code 0 if all agree, layer by layer, except for known differences, which are shown with their reasons; 1 if two
    disagree; 3 if a counter could not count all, which is named.

    Example: cnnbench verify resnet18 lenet5
    """
    from cnnbench.networks import registry
    from cnnbench.report.model_summary import cross_checks
    from cnnbench.runner.tasks.verify import verify as verify_models

    specs = [spec(model, image_size, classes, 0, channels, inputs) for model in models or registry.ARCHITECTURES]
    start = time.monotonic()
    verdicts = []
    for verdict in verify_models(specs):
        verdicts.append(verdict)
        if not as_json:
            done, elapsed = len(verdicts), time.monotonic() - start
            left = format_seconds(elapsed / done * (len(specs) - done))
            typer.echo("\n".join(cross_checks(verdict, f"{done} of {len(specs)}, about {left} left")))
    if as_json:
        print_json([{**verdict.model_dump(), "agree": verdict.agree} for verdict in verdicts])
    if any(verdict.disagreements for verdict in verdicts):
        raise typer.Exit(common.EXIT_DISAGREE)
    if any(verdict.failed for verdict in verdicts):
        raise typer.Exit(common.EXIT_NOT_ALL_MEASURED)


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A model's name.")],
    out: Annotated[Path, typer.Option(help="The file to write, such as resnet18.onnx.")],
    image_size: ImageSize = None,
    classes: Classes = None,
    channels: Channels = None,
    inputs: Inputs = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the random weights.")] = 0,
    workload: Annotated[
        Literal["inference", "training"], typer.Option(help="The network alone, or a whole training step.")
    ] = "inference",
    optimizer: OptimizerName = "sgd",
    momentum: Momentum = 0.9,
    weight_decay: WeightDecay = 1e-4,
    clip: Clip = None,
    weights: Weights = None,
    loss: Loss = None,
    trainable: Trainable = "all",
    frozen_norm: FrozenNorm = "eval",
    as_json: Json = False,
) -> None:
    """Export a model to ONNX with a dynamic batch, checked by onnx and compared with float64.

    A training step consists of forward, loss, backward and the optimizer's update; its initial weights are written
    beside it. The optimizer's options apply to a training step only.

    Example: cnnbench export resnet18 --out resnet18.onnx
    Example: cnnbench export resnet18 --workload training --out resnet18-step.onnx
    """
    from cnnbench.networks.trainable import check_part, with_norm
    from cnnbench.runner.tasks.export import Exported, ExportedStep, export_model, export_training_step

    chosen = spec(model, image_size, classes, seed, channels, inputs, weights, loss)
    done: Exported | ExportedStep
    if workload == "training":
        part = with_norm(checked(check_part, trainable, "--trainable"), frozen_norm)
        done = export_training_step(chosen, out, _optimizer(optimizer, momentum, weight_decay, clip), part)
        size = f"{done.nodes:,} nodes, {done.onnx_bytes / MB:.1f} MB"
        lines = [f"{p.what}: error {p.error:.1e} against torch in float64, limit {p.limit:.1e}" for p in done.parity]
        lines = [f"{done.weights}: its initial weights, {done.weight_bytes / MB:.1f} MB", *lines]
    else:
        done = export_model(chosen, out)
        errors = ", ".join(f"{p.error:.1e} at {p.what}" for p in done.parity)
        size = f"{done.onnx_bytes / MB:.1f} MB, opset {done.opset}"
        lines = [f"parity with float64, relative to the output's RMS: {errors}; limit {done.parity[0].limit:.0e}"]
    without = ", ".join(f"{name}: {count}" for name, count in done.without_cuda_kernel.items())
    lines.append(
        f"no kernel in ONNX Runtime's CUDA provider, so on the CPU beside a GPU: {without}"
        if without
        else "every node has a kernel in ONNX Runtime's CUDA provider"
    )
    if done.begun_anew:
        lines.append(f"begun anew, for another number of classes: {', '.join(done.begun_anew)}")
    if as_json:
        print_json(done.model_dump())
    else:
        typer.echo("\n".join([f"{done.file}: {size}, dynamic batch, checked by onnx", *lines]))


def _optimizer(name: OptimizerKind, momentum: float, weight_decay: float, max_norm: float | None) -> "Optimizer":
    from cnnbench.suite.optimizer import Optimizer

    momentum = momentum if name == "sgd" else 0.0
    return Optimizer(name=name, momentum=momentum, weight_decay=weight_decay, max_norm=max_norm)


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
        typer.Argument(help="RUNTIME[/PRECISION], such as eager, ort:disabled or ort/int8, or an ONNX file."),
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
    """Find the layer where a run parts from float64: each layer's error, what it adds and what it inherits.

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
        typer.Option(metavar="DIR|digits|shapes|signals", help="Test images of a data set, as of `cnnbench evaluate`."),
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


@app.command()
def train(
    model: Annotated[str, typer.Argument(help="A model's name, such as simple_cnn.")],
    data: Data,
    runtime: Annotated[
        Literal["eager", "ort"], typer.Option(help="The runtime that trains; the result is evaluated in both.")
    ] = "ort",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 3,
    batch: Annotated[int, typer.Option(min=2, help="Images per step.")] = 64,
    lr: Annotated[float, typer.Option(min=0.0, callback=common.finite, help="Learning rate.")] = 0.01,
    optimizer: OptimizerName = "sgd",
    momentum: Momentum = 0.9,
    weight_decay: WeightDecay = 1e-4,
    schedule: ScheduleName = "constant",
    warmup: Warmup = 0.0,
    every: Every = 30.0,
    gamma: Gamma = 0.1,
    clip: Clip = None,
    label_smoothing: Smoothing = 0.0,
    patience: Patience = None,
    held_out: HeldOut = 0.1,
    transform: Transforms = None,
    image_size: ImageSize = None,
    classes: Classes = None,
    channels: Channels = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="At most so many training images, seeded, balanced by class.")
    ] = None,
    loss: Loss = None,
    weights: Weights = None,
    trainable: Trainable = "all",
    frozen_norm: FrozenNorm = "eval",
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Seed of the initial weights, the images' order and dropout.")
    ] = 0,
    resume: Resume = False,
    out: Annotated[Path | None, typer.Option(help="The weights' file; MODEL-RUNTIME.safetensors if not given.")] = None,
    as_json: Json = False,
) -> None:
    """Train on real images, in PyTorch or from the exported training step in ONNX Runtime, and evaluate in both.

    Weights, a history (JSON lines) and a checkpoint for --resume are written after each epoch.

    Example: cnnbench train lenet5 --runtime ort --data /usr/share/datasets/fashion-mnist
    Example: cnnbench train cnn1d --image-size 512 --data signals
    Example: cnnbench train resnet18 --weights DEFAULT --classes 3 --trainable head --data photos
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from cnnbench.networks.trainable import check_part, with_norm
    from cnnbench.records import dataset
    from cnnbench.records.task_messages import StartTraining
    from cnnbench.report.terminal import can_redraw
    from cnnbench.runner import machine
    from cnnbench.runner.tasks.train import train as run

    if label_smoothing and loss:
        raise InputError("--label-smoothing: belongs to cross-entropy, which --loss replaces; give one of them")
    chosen = spec(model, image_size, classes, seed, channels, weights=weights, loss=loss)
    file = out or Path(f"{chosen.label}-{runtime}.safetensors".replace("/", "-"))
    plan = StartTraining(
        spec=chosen,
        runtime=runtime,
        data=dataset.find(data, images, seed),
        batch=batch,
        optimizer=_optimizer(optimizer, momentum, weight_decay, clip),
        rate=lr,
        threads=machine.usable_threads(),
        epochs=epochs,
        out=str(file.absolute()),
        resume=resume,
        schedule=schedule_of(schedule, warmup, every, gamma),
        label_smoothing=label_smoothing,
        patience=patience,
        held_out=held_out,
        transforms=transforms_of(transform),
        trainable=with_norm(checked(check_part, trainable, "--trainable"), frozen_norm),
    )
    found: list[dict[str, Any]] = []
    speed_column = TextColumn("steps, loss {task.fields[loss]}, {task.fields[speed]:,.0f} images/s")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), speed_column, TimeRemainingColumn())
    terminal = common.console()
    is_drawn = not as_json and can_redraw(terminal)
    with Progress(*columns, console=terminal, disable=not is_drawn, transient=True) as progress:
        bar = progress.add_task("", total=None, loss="", speed=0.0)
        for report in run(plan):
            loss = f"{report.loss or 0.0:.4f}"
            epoch = f"epoch {report.epoch} of {epochs}"
            done = (report.epoch - 1) * report.steps + report.step
            shown: dict[str, Any] = {"loss": loss, "speed": report.images_per_s}
            progress.update(bar, total=report.steps * epochs, completed=done, description=epoch, **shown)
            if (result := report.result) is not None:
                found.append({**result.model_dump(), "steps": report.steps})
                accuracies = ", ".join(f"{share:.2%} in {name}" for name, share in result.accuracy.items())
                on_held_out = "" if result.held_out is None else f", held-out accuracy {result.held_out:.2%}"
                if not as_json:
                    progress.console.print(f"{epoch}: loss {loss}{on_held_out}, test accuracy {accuracies}")
    if as_json:
        print_json({"model": plan.spec.label, "runtime": runtime, "epochs": found, "weights": str(file)})
    else:
        if len(found) < epochs:
            typer.echo(f"stopped after {len(found)} epochs: no better accuracy on held-out images in {patience}")
        typer.echo(f"weights: {file}")

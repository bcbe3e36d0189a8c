"""The command that trains a model on real images."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cnnbench.cli import common
from cnnbench.cli.common import (
    Channels,
    Classes,
    Data,
    FrozenNorm,
    ImageSize,
    Json,
    Loss,
    Trainable,
    Weights,
    spec,
)
from cnnbench.cli.recipe import (
    Clip,
    Every,
    Gamma,
    HeldOut,
    Momentum,
    OptimizerName,
    Patience,
    Resume,
    ScheduleName,
    Smoothing,
    Transforms,
    Warmup,
    WeightDecay,
    optimizer_of,
    schedule_of,
    transforms_of,
)
from cnnbench.errors import InputError
from cnnbench.report.plain import print_json
from cnnbench.suite.parse import checked

app = typer.Typer()


@app.command()
def train(
    model: Annotated[str, typer.Argument(help="A model's name, such as simple_cnn.")],
    data: Data,
    runtime: Annotated[
        Literal["eager", "ort"],
        typer.Option(metavar="eager|ort", help="The runtime that trains; the result is evaluated in both."),
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
        optimizer=optimizer_of(optimizer, momentum, weight_decay, clip),
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
            shown: dict[str, Any] = {"loss": loss, "speed": report.images_per_s}
            progress.update(bar, total=report.steps * epochs, completed=report.steps_done, description=epoch, **shown)
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

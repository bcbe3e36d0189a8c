"""The command that trains a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cnnbench.cli.common import Classes, Json, console, finite, spec
from cnnbench.report.plain import print_json

if TYPE_CHECKING:
    from cnnbench.suite.optimizer import Optimizer

app = typer.Typer()

OptimizerName = Annotated[Literal["sgd", "adam"], typer.Option("--optimizer", help="torch.optim's SGD or Adam.")]
Momentum = Annotated[
    float, typer.Option(min=0.0, max=0.999, callback=finite, help="Momentum of SGD; Adam has its own.")
]
WeightDecay = Annotated[
    float, typer.Option(min=0.0, callback=finite, help="Weight decay of either, added to the gradient.")
]


def optimizer_of(name: Literal["sgd", "adam"], momentum: float, weight_decay: float) -> "Optimizer":
    """The optimizer that the options name."""
    from cnnbench.suite.optimizer import Optimizer

    return Optimizer(name=name, momentum=0.0 if name == "adam" else momentum, weight_decay=weight_decay)


@app.command()
def train(
    model: Annotated[str, typer.Argument(help="A model's name; for Fashion-MNIST, lenet5 or simple_cnn.")],
    data: Annotated[Path, typer.Option(help="Folder with Fashion-MNIST, or other data in MNIST's files.")],
    runtime: Annotated[
        Literal["eager", "ort"], typer.Option(help="The runtime that trains; the result is evaluated in both.")
    ] = "ort",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 3,
    batch: Annotated[int, typer.Option(min=2, help="Images per step.")] = 64,
    lr: Annotated[float, typer.Option(min=0.0, callback=finite, help="Learning rate.")] = 0.01,
    optimizer: OptimizerName = "sgd",
    momentum: Momentum = 0.9,
    weight_decay: WeightDecay = 1e-4,
    classes: Classes = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Seed of the initial weights and the images' order.")
    ] = 0,
    out: Annotated[Path | None, typer.Option(help="The weights' file; MODEL-RUNTIME.safetensors if not given.")] = None,
    as_json: Json = False,
) -> None:
    """Train on real images, in PyTorch or from the exported training step in ONNX Runtime, and evaluate in both.

    Example: cnnbench train lenet5 --runtime ort --data /usr/share/datasets/fashion-mnist
    """
    from cnnbench.records import dataset
    from cnnbench.records.task_messages import StartTraining
    from cnnbench.runner import machine
    from cnnbench.runner.tasks.train import train as run

    plan = StartTraining(
        spec=spec(model, None, classes, seed),
        runtime=runtime,
        data=dataset.find(data),
        batch=batch,
        optimizer=optimizer_of(optimizer, momentum, weight_decay),
        rate=lr,
        threads=machine.usable_threads(),
    )
    file = out or Path(f"{plan.spec.label}-{runtime}.safetensors".replace("/", "-"))
    found: list[dict[str, Any]] = []
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    loss_column = TextColumn("steps, loss {task.fields[loss]}")
    with Progress(
        *columns, loss_column, TimeRemainingColumn(), console=console(), disable=as_json, transient=True
    ) as progress:
        bar = progress.add_task("", total=None, loss="")
        for report in run(plan, epochs, file):
            loss = "not finite" if report.loss is None else f"{report.loss:.4f}"
            epoch = f"epoch {report.epoch} of {epochs}"
            done = (report.epoch - 1) * report.steps + report.step
            progress.update(bar, total=report.steps * epochs, completed=done, loss=loss, description=epoch)
            if report.accuracy is None:
                continue
            found.append(report.model_dump())
            if not as_json:
                accuracies = ", ".join(f"{share:.2%} in {name}" for name, share in report.accuracy.items())
                progress.console.print(f"{epoch}: loss {loss}, test accuracy {accuracies}")
    if as_json:
        print_json({"model": plan.spec.label, "runtime": runtime, "epochs": found, "weights": str(file)})
    else:
        typer.echo(f"weights: {file}")

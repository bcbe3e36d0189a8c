"""The command that trains."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from cnnbench.cli.common import Classes, Json, console, spec
from cnnbench.report.plain import print_json

app = typer.Typer()


class Trainer(StrEnum):
    """The runtimes that train."""

    eager = "eager"
    ort = "ort"


class OptimizerName(StrEnum):
    """The optimizers that there are."""

    sgd = "sgd"
    adam = "adam"


OptimizerOption = Annotated[OptimizerName, typer.Option("--optimizer", help="torch.optim's SGD or Adam.")]
Momentum = Annotated[float, typer.Option(min=0.0, max=0.999, help="Of SGD; Adam has its own.")]
WeightDecay = Annotated[float, typer.Option(min=0.0, help="Of either; added to the gradient.")]


def optimizer_of(name: OptimizerName, momentum: float, weight_decay: float) -> Any:
    """The optimizer that the command line names."""
    from cnnbench.suite.optimizer import Optimizer

    kept = 0.0 if name is OptimizerName.adam else momentum
    return Optimizer(name=name.value, momentum=kept, weight_decay=weight_decay)


@app.command()
def train(
    model: Annotated[str, typer.Argument(help="A model's name; for Fashion-MNIST, lenet5 or simple_cnn.")],
    data: Annotated[Path, typer.Option(help="Folder with Fashion-MNIST, or other data in MNIST's files.")],
    runtime: Annotated[Trainer, typer.Option(help="What trains; both are evaluated.")] = Trainer.ort,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 3,
    batch: Annotated[int, typer.Option(min=2, help="Images per step.")] = 64,
    lr: Annotated[float, typer.Option(min=0.0, help="Learning rate.")] = 0.01,
    optimizer: OptimizerOption = OptimizerName.sgd,
    momentum: Momentum = 0.9,
    weight_decay: WeightDecay = 1e-4,
    classes: Classes = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the first weights and the images' order.")] = 0,
    out: Annotated[Path | None, typer.Option(help="The weights' file; MODEL-RUNTIME.safetensors if not given.")] = None,
    as_json: Json = False,
) -> None:
    """Train on real images, in ONNX Runtime from the exported training step or in PyTorch, and try the result in both.

    Example: cnnbench train lenet5 --runtime ort --data /usr/share/datasets/fashion-mnist
    """
    from cnnbench.records import dataset
    from cnnbench.records.messages import StartTraining
    from cnnbench.runner import machine
    from cnnbench.runner.tasks.train import train as run

    plan = StartTraining(
        spec=spec(model, None, classes, seed),
        runtime=runtime.value,
        data=dataset.find(data),
        batch=batch,
        optimizer=optimizer_of(optimizer, momentum, weight_decay),
        rate=lr,
        threads=machine.usable_threads(),
    )
    file = out or Path(f"{plan.spec.label}-{runtime.value}.safetensors".replace("/", "-"))
    found: list[dict[str, Any]] = []
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps, loss {task.fields[loss]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(), disable=as_json, transient=True) as progress:
        bar = None
        for report in run(plan, epochs, file):
            if bar is None:
                bar = progress.add_task("", total=report.steps * epochs, loss="")
            done = (report.epoch - 1) * report.steps + report.step
            loss = "not finite" if report.loss is None else f"{report.loss:.4f}"
            progress.update(bar, completed=done, loss=loss, description=f"epoch {report.epoch} of {epochs}")
            if report.accuracy is None:
                continue
            found.append(report.model_dump())
            if not as_json:
                tried = ", ".join(f"{share:.2%} in {name}" for name, share in report.accuracy.items())
                progress.console.print(f"epoch {report.epoch} of {epochs}: loss {loss}, test accuracy {tried}")
    if as_json:
        print_json({"model": plan.spec.label, "runtime": runtime.value, "epochs": found, "weights": str(file)})
    else:
        typer.echo(f"weights: {file}")

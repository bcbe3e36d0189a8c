"""Options of a training recipe, and what they ask for."""

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from cnnbench.cli.common import finite
from cnnbench.suite.parse import checked

if TYPE_CHECKING:
    from cnnbench.suite.optimizer import Optimizer
    from cnnbench.suite.schedule import Schedule

OptimizerKind: TypeAlias = Literal["sgd", "adam", "adamw"]
OptimizerName = Annotated[
    OptimizerKind, typer.Option("--optimizer", metavar="sgd|adam|adamw", help="torch.optim's SGD, Adam or AdamW.")
]
Momentum = Annotated[float, typer.Option(min=0.0, max=0.999, callback=finite, help="Momentum of SGD alone.")]
WeightDecay = Annotated[
    float,
    typer.Option(
        min=0.0,
        callback=finite,
        help="As in torch.optim: added to the gradient, and with AdamW subtracted from the weights.",
    ),
]
ScheduleName = Annotated[
    Literal["constant", "step", "cosine"],
    typer.Option(
        "--schedule",
        metavar="constant|step|cosine",
        help="Learning rate: constant, times --gamma after each --every epochs, or to zero.",
    ),
]
Warmup = Annotated[float, typer.Option(min=0.0, callback=finite, help="Epochs in which the rate grows linearly.")]
Every = Annotated[float, typer.Option(min=1e-3, callback=finite, help="Epochs, for --schedule step.")]
Gamma = Annotated[float, typer.Option(min=0.0, callback=finite, help="Factor, for --schedule step.")]
Clip = Annotated[
    float | None,
    typer.Option(min=1e-9, callback=finite, help="Largest global norm of the gradients; larger ones are scaled down."),
]
Smoothing = Annotated[
    float,
    typer.Option(
        "--label-smoothing",
        min=0.0,
        max=1.0,
        callback=finite,
        help="Share of each label's probability that is spread over all classes.",
    ),
]
Patience = Annotated[
    int | None,
    typer.Option(min=1, help="Stop after so many epochs without a better accuracy on --held-out; keep the best."),
]
HeldOut = Annotated[
    float, typer.Option(min=0.0, max=1.0, callback=finite, help="Share of the training images, for --patience.")
]
Transforms = Annotated[
    list[str] | None,
    typer.Option(
        "--transform",
        metavar="CALL",
        help="One of torchvision.transforms.v2 for training images, such as 'RandomCrop(32, padding=4)'; for each.",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue after the last complete epoch of the same run.")]


def optimizer_of(name: OptimizerKind, momentum: float, weight_decay: float, max_norm: float | None) -> "Optimizer":
    """The optimizer; SGD alone takes a momentum."""
    from cnnbench.suite.optimizer import Optimizer

    momentum = momentum if name == "sgd" else 0.0
    return Optimizer(name=name, momentum=momentum, weight_decay=weight_decay, max_norm=max_norm)


def schedule_of(name: Literal["constant", "step", "cosine"], warmup: float, every: float, gamma: float) -> "Schedule":
    """The learning rate's schedule."""
    from cnnbench.suite.schedule import Schedule

    return Schedule(name=name, warmup=warmup, every=every, gamma=gamma)


def transforms_of(given: list[str] | None) -> list[str]:
    """What --transform names, in order. Raises InputError."""
    from cnnbench.suite.transforms import check_transform

    return [checked(check_transform, each, "--transform") for each in given or ()]

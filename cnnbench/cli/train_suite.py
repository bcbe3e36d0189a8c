"""The command that trains the models of a suite."""

from typing import TYPE_CHECKING, Annotated

import typer

from cnnbench.cli import common
from cnnbench.cli.common import Json
from cnnbench.errors import InputError
from cnnbench.report.plain import print_json

if TYPE_CHECKING:
    from cnnbench.runner.tasks.train import Report

app = typer.Typer()


@app.command(name="train-suite")
def train_suite(
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="A YAML file, or the name of a bundled suite.")],
    as_json: Json = False,
) -> None:
    """Train the models of a suite whose weights are `trained`, once, into the cache.

    What is there already is not trained again; a run that was interrupted goes on after its last whole epoch.

    Example: cnnbench train-suite suites/precision.yaml
    """
    from rich.progress import Progress

    from cnnbench.report.terminal import can_redraw
    from cnnbench.runner.tasks.train_suite import train_weights
    from cnnbench.suite.load import load_suite

    loaded = load_suite(suite)
    if not loaded.trained:
        raise InputError(f"{suite}: expected a model with `weights: trained`; got none")
    rows = []
    terminal = common.console()
    with Progress(console=terminal, disable=as_json or not can_redraw(terminal), transient=True) as progress:
        for training in loaded.trained:
            name, epochs = training.spec.label, training.recipe.epochs
            bar = progress.add_task(name, total=None)

            def watch(report: "Report", name: str = name, epochs: int = epochs, bar: object = bar) -> None:
                what = f"{name}: epoch {report.epoch} of {epochs}, {report.images_per_s:,.0f} images/s"
                progress.update(bar, description=what, total=report.steps * epochs, completed=report.steps_done)  # type: ignore[arg-type]

            found = train_weights(training, watch)
            rows.append({"model": name, "weights": training.weights, **found.model_dump(exclude={"source"})})
            progress.remove_task(bar)
            if not as_json:
                accuracy, minutes = found.accuracy, found.seconds / 60
                progress.console.print(
                    f"{name}: test accuracy {accuracy:.2%}, {minutes:.1f} min of training, {training.weights}"
                )
    if as_json:
        print_json(rows)

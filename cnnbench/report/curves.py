"""Training runs beside each other: loss and accuracy over epochs and over seconds, and the time to an accuracy."""

from collections.abc import Iterator, Mapping

from cnnbench.records.training_history import EpochResult, History
from cnnbench.report.charts import WIDTH, Chart, colours, data

HEIGHT = 200
AXES = {"epoch": "epochs", "seconds": "seconds of training steps"}
FIGURES = {"accuracy": "test accuracy", "loss": "loss, mean of an epoch"}


def text(histories: Mapping[str, History]) -> Iterator[str]:
    """Each run's last accuracy, and when it came to the highest that all of them have; line by line."""
    reached = min(max(accuracy(history, each) for each in history.epochs) for history in histories.values())
    for name, history in histories.items():
        last = history.epochs[-1]
        first = next(each for each in history.epochs if accuracy(history, each) >= reached)
        yield (
            f"{name}: {accuracy(history, last):.2%} after {_after(last)}; "
            f"at least {reached:.2%} for the first time after {_after(first)}"
        )


def accuracy(history: History, result: EpochResult) -> float:
    """The share of the test images in the right class, in the runtime that trained."""
    return result.accuracy[history.run.runtime]


def chart(histories: Mapping[str, History]) -> Chart:
    """A panel for each figure and axis, a line for each run."""
    import altair as alt

    rows = [
        {
            "run": name,
            "epoch": each.epoch,
            "seconds": each.seconds,
            "accuracy": accuracy(history, each),
            "loss": each.loss,
            "what": f"{name}, {_after(each)}: accuracy {accuracy(history, each):.2%}, loss {each.loss:.4f}",
        }
        for name, history in histories.items()
        for each in history.epochs
    ]
    runs = list(histories)

    def panel(x: str, y: str) -> alt.Chart:
        ticks = alt.Axis(format="%") if y == "accuracy" else alt.Axis()
        drawn: alt.Chart = (
            alt.Chart()
            .mark_line(point=True)
            .encode(
                x=alt.X(f"{x}:Q", title=AXES[x], axis=alt.Axis(tickMinStep=1), scale=alt.Scale(zero=True)),
                y=alt.Y(f"{y}:Q", title=FIGURES[y], scale=alt.Scale(zero=False), axis=ticks),
                color=alt.Color("run:N", scale=colours(runs), sort=runs, title=None),
                description="what:N",
            )
        )
        return drawn.properties(width=WIDTH, height=HEIGHT)

    columns = [alt.vconcat(*(panel(x, y) for y in FIGURES)) for x in AXES]
    return Chart(
        name="curves",
        title="Training",
        caption="Loss and test accuracy over epochs, and over the seconds of training steps alone.",
        spec=alt.hconcat(*columns, data=data(rows)),
    )


def _after(result: EpochResult) -> str:
    return f"{result.epoch} epoch{'s' * (result.epoch > 1)}, {result.seconds:,.1f} s"

"""A trained model's accuracy, confusions and disagreements: text, JSON, and a picture."""

from collections.abc import Iterator
from typing import Any

from cnnbench.analysis.evaluation import Predictions, accuracy, by_class, confusion, differences
from cnnbench.analysis.stats import Estimate
from cnnbench.report.charts import GRID, INK, PAPER, SERIES, WIDTH, Chart, data
from cnnbench.report.format import NONE
from cnnbench.report.plain import lines_of

MAX_LINES = 20
"""Of images and confusions that text lists; JSON has all."""
MAX_CELLS_WITH_NUMBERS = 20
"""To a side of a picture."""


def as_json(predictions: Predictions) -> dict[str, Any]:
    """All of it for programs; confusion matrices have the images' classes in rows."""
    return {
        "classes": list(predictions.names),
        "images": len(predictions.labels),
        "backends": {
            backend: {
                "correct": (correct := sum(predictions.correct(backend))),
                **({"draws": list(predictions.draws[backend])} if backend in predictions.draws else {}),
                **_interval(accuracy(correct, len(predictions.labels))),
                "by_class": [
                    {"class": each.name, "images": each.images, "correct": each.correct, **_interval(each.accuracy)}
                    for each in by_class(predictions, backend)
                ],
                "confusion": confusion(predictions, backend),
            }
            for backend in predictions.classes
        },
        "comparisons": [
            {
                "first": each.first,
                "second": each.second,
                "only_first_correct": each.only_first,
                "only_second_correct": each.only_second,
                "mcnemar_p": each.p,
                "disagreements": [
                    {
                        "image": place,
                        "label": predictions.labels[place],
                        each.first: predictions.classes[each.first][place],
                        each.second: predictions.classes[each.second][place],
                    }
                    for place in each.images
                ],
            }
            for each in differences(predictions)
        ],
    }


def text(predictions: Predictions) -> Iterator[str]:
    """The same for people, line by line: all backends, then the classes and confusions of the first."""
    images = len(predictions.labels)
    yield f"{images:,} test images of {len(predictions.names)} classes; accuracy with its 95 % interval (Wilson)"
    for backend in predictions.classes:
        correct = sum(predictions.correct(backend))
        draws = [share / images for share in (correct, *predictions.draws.get(backend, ()))]
        spread = f"; {min(draws):.2%} to {max(draws):.2%} in {len(draws)} draws of calibration images"
        yield f"  {backend}: {_shown(accuracy(correct, images))}, {correct:,} correct{spread if draws[1:] else ''}"
    for each in differences(predictions):
        if not each.images:
            yield f"{each.first} and {each.second} put all images into the same classes"
            continue
        yield (
            f"{each.first} and {each.second} put {len(each.images):,} of {images:,} images into different classes: "
            f"{each.first} alone is right on {each.only_first}, {each.second} alone on {each.only_second}; "
            f"p = {each.p:.2g} (McNemar, exact)"
        )
        yield from lines_of(
            {"image": str(place), "class": predictions.name(predictions.labels[place])}
            | {name: predictions.name(predictions.classes[name][place]) for name in (each.first, each.second)}
            for place in each.images[:MAX_LINES]
        )
        if each.images[MAX_LINES:]:
            yield f"  and {len(each.images) - MAX_LINES:,} more (--json)"
    first = next(iter(predictions.classes))
    yield f"By class, {first}:"
    yield from lines_of(
        {"class": each.name, "images": each.images, "correct": each.correct, "accuracy": _shown(each.accuracy)}
        for each in by_class(predictions, first)
    )
    most = sorted(_confusions(predictions, first), reverse=True)[:MAX_LINES]
    if most:
        yield f"Most confused, {first}:"
        yield from lines_of(
            {"class": predictions.name(label), "taken for": predictions.name(found), "images": count}
            for count, label, found in most
        )


def chart(predictions: Predictions) -> Chart:
    """The confusion matrix of each backend, side by side."""
    import altair as alt

    matrices = {backend: confusion(predictions, backend) for backend in predictions.classes}
    count = max(map(len, matrices.values()))
    names = [predictions.name(number) for number in range(count)]
    rows = [
        {
            "backend": backend,
            "class": names[label],
            "found": names[found],
            "images": images,
            "share": images / (sum(row) or 1),
            "what": f"{backend}: {images:,} of {sum(row):,} images of {names[label]} are taken for {names[found]}",
        }
        for backend, matrix in matrices.items()
        for label, row in enumerate(matrix)
        for found, images in enumerate(row)
    ]
    axes = {
        "x": alt.X("found:N", sort=names, title="taken for", axis=alt.Axis(labelAngle=-45, labelOverlap=True)),
        "y": alt.Y("class:N", sort=names, title="class", axis=alt.Axis(labelOverlap=True)),
    }
    colour = alt.Color(
        "share:Q", scale=alt.Scale(domain=[0, 1], range=[PAPER, SERIES[1]], interpolate="rgb"), legend=None
    )
    cells = alt.Chart().mark_rect(stroke=GRID, strokeWidth=0.5).encode(**axes, color=colour, description="what:N")
    layers: list[Any] = [cells]
    if count <= MAX_CELLS_WITH_NUMBERS:
        shade = alt.condition(alt.datum.share > 0.5, alt.value(PAPER), alt.value(INK))
        numbers = alt.Chart().mark_text(fontSize=10).encode(**axes, text="images:Q", color=shade)
        layers.append(numbers.transform_filter(alt.datum.images > 0))
    drawn = alt.layer(*layers, data=data(rows)).properties(width=WIDTH, height=WIDTH)
    return Chart(
        name="confusion",
        title="Confusion matrix",
        caption="Images by their class, in rows, and the class that they are taken for; shades are shares of a row.",
        spec=drawn.facet(column=alt.Column("backend:N", title=None, sort=list(predictions.classes))),
    )


def _confusions(predictions: Predictions, backend: str) -> Iterator[tuple[int, int, int]]:
    for label, row in enumerate(confusion(predictions, backend)):
        yield from ((images, label, found) for found, images in enumerate(row) if images and found != label)


def _interval(of: Estimate | None) -> dict[str, float | None]:
    return {"accuracy": of.value, "low": of.low, "high": of.high} if of else dict.fromkeys(("accuracy", "low", "high"))


def _shown(of: Estimate | None) -> str:
    return f"{of.value:.2%} [{of.low:.2%}, {of.high:.2%}]" if of else NONE

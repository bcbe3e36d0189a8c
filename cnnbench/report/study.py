"""A study as a page: each claim with its number and verdict, the networks, and charts of what was measured."""

from collections.abc import Callable, Iterator, Sequence
from statistics import fmean

import altair as alt

from cnnbench.analysis.stats import Estimate
from cnnbench.analysis.study import Judged, Results, estimate, judge, share_of, values
from cnnbench.networks.trainable import ALL
from cnnbench.report.charts import FAINT, ROW, WIDTH, Chart, colours, data
from cnnbench.report.format import NONE, significant
from cnnbench.report.html import Page, Section, html
from cnnbench.report.table import Column, Table, figure, hidden, table_of, words
from cnnbench.suite.study import Arm, Measure, Study, parse_measure

HEIGHT = 220
OPAQUE = alt.Legend(symbolOpacity=1)
"""Of charts whose bands are pale."""
AXES = {
    "shift": "shift to the right of the centre, pixels",
    "rotation": "rotation, degrees",
    "scale": "scale",
    "noise": "standard deviation of the noise, 255ths",
    "blur": "standard deviation of the Gaussian, pixels",
    "fgsm": "FGSM: change of each value, 255ths",
    "pgd": "PGD: largest change of each value, 255ths",
}


def page(study: Study, results: Results, faults: Sequence[str] = ()) -> str:
    """One HTML file that needs nothing else."""
    judged = judge(study, results)
    left_out = len(study.claims) - len(judged)
    prose = [
        "A claim holds if all of the 95 % interval of the difference lies above zero, and does not hold if all of it "
        "lies at or below zero. The interval has the differences between seeds, and the choice of the test images; it "
        "says nothing of other data sets, or of larger networks."
    ]
    prose += [f"{left_out} claims have no number yet: their runs are not finished."] if left_out else []
    changed = [_changed(study, results, what) for what in study.under]
    sections = [
        Section("claims", "Claims", prose, [_claims(judged), *_differences(judged)]),
        Section("networks", "Networks", [], [_networks(study, results), *_accuracies(study, results)]),
        Section("data", "How much data", [], list(_by_images(study, results))),
        Section("changed", "Changed images", [], [chart for chart in changed if chart]),
        Section("gradients", "Gradients by layer", [], list(_gradients(study, results))),
    ]
    subtitle = f"{study.description} {_how(study)}"
    return html(
        Page(
            f"{study.name}, measured",
            subtitle.strip(),
            [section for section in sections if section.parts],
            list(faults),
            "by cnnbench study, from results.jsonl beside it",
        )
    )


def text(study: Study, results: Results) -> Iterator[str]:
    """A line for each claim."""
    for each in judge(study, results):
        yield f"{each.verdict}: {each.claim.text} {numbers(each)}"


def numbers(each: Judged) -> str:
    """`accuracy: simple 93.1 %, mlp 61.0 %; difference 32.1 [29.9, 34.3] %`."""
    measure = parse_measure(each.claim.more)
    than = "" if isinstance(each.claim.than, float) else f"{each.claim.than} "
    other = "" if each.claim.than_more in (None, each.claim.more) else f"{each.claim.than_more}: "
    shown = _shown(measure)
    return (
        f"{each.claim.more}: {each.claim.of} {shown(each.more)}, {other}{than}{shown(each.than)}; "
        f"difference {_interval(measure, each.difference)}"
    )


def _shown(measure: Measure) -> Callable[[float], str]:
    if measure.of == "parameters":
        return lambda value: f"{value:,.0f}"
    return significant if measure.of == "gradient" else lambda value: f"{100 * value:.1f} %"


def _interval(measure: Measure, of: Estimate) -> str:
    shown = _shown(measure)
    if of.low == of.value == of.high:
        return f"{shown(of.value)}, exactly"
    if of.low is None or of.high is None:
        return f"{shown(of.value)} [?]"
    return f"{shown(of.value)} [{shown(of.low)}, {shown(of.high)}]"


def _how(study: Study) -> str:
    runtime = "ONNX Runtime" if study.runtime == "ort" else "PyTorch"
    return (
        f"The {study.form} form: {study.data}, {study.images:,} training images, {study.epochs} epochs, where a "
        f"network's line does not say otherwise; Adam, rate {study.rate:g}, batch {study.batch}, {len(study.seeds)} "
        f"seeds, trained in {runtime}."
    )


def _claims(judged: Sequence[Judged]) -> Table:
    columns: list[Column[Judged]] = [
        figure("#", lambda r: judged.index(r) + 1, "{:.0f}".format, "number"),
        words("about", lambda r: r.claim.about, axis=True),
        words("claim", lambda r: r.claim.text),
        words("verdict", lambda r: r.verdict, axis=True),
        words("measured", numbers),
        hidden("more", lambda r: r.more),
        hidden("than", lambda r: r.than),
        hidden("difference", lambda r: r.difference.value),
        hidden("difference_low", lambda r: r.difference.low),
        hidden("difference_high", lambda r: r.difference.high),
    ]
    caption = "Means over seeds; the difference with its 95 % interval."
    return table_of("claims", "Claims", caption, judged, columns)


def _networks(study: Study, results: Results) -> Table:
    def mean(arm: str, of: str) -> float | None:
        found = [float(getattr(run, of)) for (name, _), run in results.items() if name == arm]
        return fmean(found) if found else None

    def accuracy(arm: str, runtime: str) -> float | None:
        found = [run.accuracy[runtime] for (name, _), run in results.items() if name == arm and runtime in run.accuracy]
        return fmean(found) if found else None

    columns: list[Column[str]] = [
        words("network", str, axis=True),
        words("model", lambda arm: study.arms[arm].model.rpartition(":")[2]),
        figure("parameters", lambda arm: mean(arm, "parameters"), "{:,.0f}".format),
        figure("images", lambda arm: study.arms[arm].images or study.images, "{:,.0f}".format),
        figure("epochs", lambda arm: mean(arm, "epochs"), "{:.0f}".format),
        figure("in PyTorch", lambda arm: accuracy(arm, "eager"), "{:.2%}".format, "eager"),
        figure("in ONNX Runtime", lambda arm: accuracy(arm, "ort"), "{:.2%}".format, "ort"),
        figure("training s", lambda arm: mean(arm, "seconds") or None, key="seconds"),
        words("otherwise", lambda arm: _otherwise(study.arms[arm])),
    ]
    caption = (
        "Test accuracy after the last epoch, the mean over seeds, by the same weights in both runtimes. training: "
        "seconds of all training steps, with one thread, beside another run on another core."
    )
    return table_of("networks", "Networks", caption, list(study.arms), columns)


def _otherwise(arm: Arm) -> str:
    """What of an arm's training is not as the study says, besides images and epochs."""
    given = {"batch": arm.batch, "rate": arm.rate, "starts from": arm.start}
    parts = [f"{name} {value}" for name, value in given.items() if value is not None]
    parts += [f"trains {arm.trainable}"] * (arm.trainable != ALL) + [arm.schedule] * (arm.schedule != "constant")
    return "; ".join([*parts, *arm.transforms, *([", ".join(arm.classes)] if arm.classes else [])]) or NONE


def _differences(judged: Sequence[Judged]) -> Iterator[Chart]:
    """Of claims about shares of images, in percentage points."""
    rows = [
        {
            "claim": f"{number} {each.claim.more.removeprefix('accuracy under ')}",
            "difference": each.difference.value,
            "low": each.difference.low,
            "high": each.difference.high,
            "verdict": each.verdict,
            "what": f"{number}: {each.claim.text} {numbers(each)}",
        }
        for number, each in enumerate(judged, 1)
        if parse_measure(each.claim.more).is_share and each.difference.low is not None
    ]
    if rows:
        axis = alt.Axis(format="+.0%")
        verdicts = ["holds", "does not hold", "undecided"]
        colour = alt.Color("verdict:N", scale=colours(verdicts), sort=verdicts, title=None)
        base = alt.Chart(data(rows)).encode(y=alt.Y("claim:N", sort=None, title=None), color=colour)
        bars = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title="difference", axis=axis), x2="high:Q")
        points = base.mark_point(filled=True).encode(x=alt.X("difference:Q", axis=axis), description="what:N")
        zero = alt.Chart(data([{"zero": 0}])).mark_rule(color=FAINT, strokeDash=[3, 3]).encode(x="zero:Q")
        drawn = alt.layer(zero, bars, points).properties(width=WIDTH, height=alt.Step(ROW))
        caption = "What is claimed to be more, less the other, with its 95 % interval; numbers are those of the table."
        yield Chart("differences", "Differences", caption, drawn)


def _by_images(study: Study, results: Results) -> Iterator[Chart]:
    """Test accuracy over the number of training images, of arms that are points of a line."""
    rows = []
    for arm, of in study.arms.items():
        shares = [run.accuracy[study.runtime] for (name, _), run in results.items() if name == arm and run.accuracy]
        if of.line is not None and shares:
            ends = {"mean": fmean(shares), "low": min(shares), "high": max(shares)}
            what = f"{arm}: {fmean(shares):.1%} [{min(shares):.1%}, {max(shares):.1%}]"
            rows.append({"line": of.line, "images": of.images or study.images, **ends, "what": what})
    if rows:
        lines = list(dict.fromkeys(str(row["line"]) for row in rows))
        ticks = sorted({of.images or study.images for of in study.arms.values() if of.line is not None})
        x = alt.X(
            "images:Q", title="training images", scale=alt.Scale(type="log", nice=False), axis=alt.Axis(values=ticks)
        )
        base = alt.Chart(data(rows)).encode(
            x=x, color=alt.Color("line:N", scale=colours(lines), sort=lines, title=None, legend=OPAQUE)
        )
        yield _banded("images", "Accuracy by number of training images", "test accuracy", base)


def _banded(name: str, title: str, y: str, base: alt.Chart) -> Chart:
    """A line through `mean` in a band from `low` to `high`."""
    axis = alt.Axis(format="%")
    band = base.mark_area(opacity=0.18).encode(
        y=alt.Y("low:Q", title=y, axis=axis, scale=alt.Scale(domain=[0, 1])), y2="high:Q"
    )
    line = base.mark_line(point=True).encode(y=alt.Y("mean:Q", axis=axis), description="what:N")
    caption = "Mean over seeds; the band is from the worst seed to the best."
    return Chart(name, title, caption, alt.layer(band, line).properties(width=WIDTH, height=HEIGHT))


def _accuracies(study: Study, results: Results) -> list[Chart]:
    measure = parse_measure("accuracy")
    rows = []
    for arm in study.arms:
        if found := values(results, study, arm, measure):
            of = estimate(found)
            low, high = (of.value if bound is None else min(max(bound, 0.0), 1.0) for bound in (of.low, of.high))
            what = f"{arm}: {_interval(measure, of)}"
            rows.append({"network": arm, "accuracy": of.value, "low": low, "high": high, "what": what})
    if not rows:
        return []
    axis = alt.Axis(format="%")
    base = alt.Chart(data(rows)).encode(y=alt.Y("network:N", sort=None, title=None))
    ends = alt.X("low:Q", title="test accuracy", axis=axis, scale=alt.Scale(zero=False))
    bars = base.mark_rule(strokeWidth=2, color=FAINT).encode(x=ends, x2="high:Q")
    points = base.mark_point(filled=True).encode(x=alt.X("accuracy:Q", axis=axis), description="what:N")
    drawn = alt.layer(bars, points).properties(width=WIDTH, height=alt.Step(ROW))
    return [Chart("accuracies", "Test accuracy", "Mean over seeds with its 95 % interval.", drawn)]


def _changed(study: Study, results: Results, what: str) -> Chart | None:
    """Accuracy over the amount of one change; the band is from the worst seed to the best."""
    rows = []
    for arm in study.arms:
        of_arm: dict[float, list[float]] = {}
        for (name, _), run in results.items():
            for each in run.tried:
                if (name, each.what, each.runtime) == (arm, what, study.runtime):
                    of_arm.setdefault(each.amount, []).append(share_of(each, "accuracy"))
        for amount, shares in sorted(of_arm.items()):
            told = f"{arm}, {what} {amount:g}: {fmean(shares):.1%} [{min(shares):.1%}, {max(shares):.1%}]"
            ends = {"mean": fmean(shares), "low": min(shares), "high": max(shares)}
            rows.append({"network": arm, "amount": amount, **ends, "what": told})
    if not rows:
        return None
    arms = list(dict.fromkeys(str(row["network"]) for row in rows))
    colour = alt.Color("network:N", scale=colours(arms), sort=arms, title=None, legend=OPAQUE)
    x = alt.X("amount:Q", title=AXES[what], scale=alt.Scale(zero=False, nice=False))
    base = alt.Chart(data(rows)).encode(x=x, color=colour)
    return _banded(what, f"Accuracy under {what}", f"accuracy on {study.tried_images:,} test images", base)


def _gradients(study: Study, results: Results) -> Iterator[Chart]:
    """Of the arms whose gradients a claim compares."""
    claims = [claim for claim in study.claims if claim.more == "gradient"]
    arms = list(dict.fromkeys(arm for claim in claims for arm in (claim.of, claim.than) if isinstance(arm, str)))
    seed = study.seeds[0]
    rows = [
        {"network": arm, "layer": place, "norm": norm, "what": f"{arm}, {name}: {significant(norm)}"}
        for arm in arms
        if (run := results.get((arm, seed))) is not None
        for place, (name, norm) in enumerate(run.gradients.items(), 1)
        if norm > 0
    ]
    if rows:
        drawn = (
            alt.Chart(data(rows))
            .mark_line(point=True)
            .encode(
                x=alt.X("layer:Q", title="layer with weights, from the input"),
                y=alt.Y("norm:Q", scale=alt.Scale(type="log"), title="norm of the gradient"),
                color=alt.Color("network:N", scale=colours(arms), sort=arms, title=None),
                description="what:N",
            )
            .properties(width=WIDTH, height=HEIGHT)
        )
        caption = f"Of the weights of each layer before training, over a batch of training images; seed {seed}."
        yield Chart("gradients", "Gradients before training", caption, drawn)

"""What meets the bounds of `cnnbench pick`, in words and tables, and the commands that measure what is missing."""

import shlex
from collections.abc import Iterator, Sequence
from functools import partial

from cnnbench.analysis.pick import MAX_NEAR, UNITS, Candidate, Check, Metric, Picked
from cnnbench.analysis.stats import Estimate
from cnnbench.report.answer import joined
from cnnbench.report.format import (
    NONE,
    UNKNOWN,
    accuracy_source,
    accuracy_text,
    interval_text,
    percent,
    ratio_text,
    significant,
)
from cnnbench.report.prose import BOUND_BY, name_of
from cnnbench.report.table import Column, Table, estimate, figure, hidden, table_of, words
from cnnbench.suite.case import ModelSpec

NAMES: dict[Metric, str] = {"p50": "p50", "memory": "memory", "accuracy": "top-1", "size": "size"}
TWICE = 2.0
MAX_NAMED = 5
"""So many cases are named in one command; a pattern of more is left to the reader."""
CAPTION = (
    "p50: median time of one call of the whole batch [95 % interval]. memory: peak of the process, or of the device. "
    "top-1: {source}. size: the ONNX file, or the weights. MB = 1e6 bytes. limits: what limits most of the lower "
    "bound, and the share of the speed that the peaks allow. Candidates that share a rank, marked =, do not differ "
    "significantly in p50."
)


def picked_lines(picked: Picked) -> list[str]:
    """The best candidate and why, who is nearest if there is none, and what to measure."""
    bounds = joined([_bound(metric, bound, picked.data) for metric, bound in picked.bounds.items()]) or "no bounds"
    counted = [(len(picked.meets), "meet"), (len(picked.may), "may meet"), (len(picked.fails), "fail")]
    counted += [(len(picked.unknown), "unknown")] if picked.unknown else []
    judged = ", ".join(f"{count} {verb}" for count, verb in counted)
    lines = [f"Inference, batch {picked.batch}, with {bounds}: {judged}."]
    if picked.meets:
        lines.append(_best(picked))
    elif picked.may:
        lines.append(f"None meets all bounds with its whole interval; {_name(picked.may[0])} may.")
    elif picked.fails:
        nearest = picked.fails[0]
        lines.append(f"None meets all bounds. Nearest: {_name(nearest)}, {failure(nearest)}.")
    return [*lines, *missing(picked)]


def _bound(metric: Metric, bound: float, data: str) -> str:
    side = f"({accuracy_source(data)}) at least" if metric == "accuracy" else "at most"
    return f"{NAMES[metric]} {side} {significant(bound)} {UNITS[metric]}"


def _name(candidate: Candidate) -> str:
    case = candidate.record.case
    unusual = [part for part in (case.device, case.precision) if part not in ("cpu", "fp32")]
    where = ", ".join(
        [name_of(case.runtime), *unusual, *(p for p in (case.layout, case.allocator) if p in case.backend)]
    )
    return f"{case.label} in {where}"


def _best(picked: Picked) -> str:
    best = picked.meets[0]
    text = f"Best: {_name(best)}, p50 {interval_text(best.ms)} ms"
    figures = [check for check in best.checks if check.metric != "p50" and check.figure]
    if figures:
        text += ", " + ", ".join(map(_figure, figures))
    rivals = [_name(each) for each in picked.meets[1:] if each.rank == 1]
    if rivals:
        text += f". Not told apart by p50 from {joined(rivals)}; it is the most accurate, or needs the least memory"
    elif (lead := picked.lead()) is not None:
        after = next(each for each in picked.meets if each.rank > 1)
        text += f". The next, {_name(after)}, takes {ratio_text(lead)} the time"
    return text + "."


def figure_text(metric: Metric, found: Estimate | None) -> str:
    """Without its interval, where that is a point."""
    if found is None:
        return UNKNOWN
    if metric == "accuracy":
        return accuracy_text(found)
    return significant(found.value) if found.low is not None and found.low == found.high else interval_text(found)


def _figure(check: Check) -> str:
    return f"{NAMES[check.metric]} {figure_text(check.metric, check.figure)} {UNITS[check.metric]}"


def failure(candidate: Candidate) -> str:
    """`p50 47 [41, 58] ms is 2.4 times the bound`, for each bound that it fails, the furthest first."""
    texts = []
    for check in candidate.failed:
        by = abs(check.bound - check.figure.value) if check.figure else 0.0
        beyond = f"{significant(by, 2)} points below" if check.metric == "accuracy" else ""
        beyond = beyond or (f"{percent(check.used - 1)} above" if check.used < TWICE else "")
        beyond = beyond or f"{significant(check.used, 2)} times"
        texts.append(f"{_figure(check)} is {beyond} the bound")
    return joined(texts)


def missing(picked: Picked) -> Iterator[str]:
    """What was not measured or not sharply enough, with the command that measures it."""
    if picked.batch not in picked.batches:
        known = ", ".join(map(str, picked.batches)) or "none"
        yield (
            f"Batch {picked.batch} was not measured (measured: {known}); a suite with `batches: {{inference: "
            f"[{picked.batch}]}}` measures it."
        )
    wide = [each for each in picked.may if any(_is_wide(check) for check in each.checks)]
    for run in picked.runs:
        ids = [each.record.id for each in wide if each.run is run]
        if ids:
            yield f"Too wide an interval to tell: {_command(run.folder / 'suite.yaml', ids)}"
        not_reached = [id_ for id_, of in picked.not_reached.items() if of is run]
        if not_reached:
            again = ["--out", str(run.folder), "--resume"]
            yield f"Not measured: {_command(run.folder / 'suite.yaml', not_reached, again)}"
    for metric in picked.bounds:
        checks = [(each, check) for each in picked.unknown for check in each.checks if check.metric == metric]
        specs = list(dict.fromkeys(each.record.case.spec for each, check in checks if check.figure is None))
        models = joined([spec.label for spec in specs]) if specs else ""
        if specs and metric == "accuracy":
            what = f"No accuracy is {accuracy_source(picked.data)}" + ("" if picked.data else " at its size")
            yield f"{what} for {models}: {_evaluation(specs[0], picked.data or 'DIR')}"
        elif specs:
            yield f"Unknown {NAMES[metric]}: {models}."
    if picked.excluded:
        first_id = picked.excluded[0].id
        yield f"Not judged, since failed or invalid: {len(picked.excluded)}, such as {first_id}."


def _is_wide(check: Check) -> bool:
    return check.verdict == "may" and check.metric == "p50"


def _command(suite: object, ids: Sequence[str], again: Sequence[str] = ()) -> str:
    only = [word for id_ in ids[:MAX_NAMED] for word in ("--only", id_)]
    return shlex.join(["cnnbench", "run", str(suite), *only, *again])


def _evaluation(spec: ModelSpec, data: str) -> str:
    size = ["--image-size", "x".join(map(str, spec.image_size))] if spec.image_size and "@" in spec.label else []
    classes = ["--classes", str(spec.classes)] if spec.classes and "/k" in spec.label else []
    return shlex.join(["cnnbench", "evaluate", spec.model, *size, *classes, "--weights", "FILE", "--data", data])


def _source(data: str) -> str:
    source = accuracy_source(data)
    return f"{source} with what was timed [95 % interval]" if data else f"{source} for the pretrained weights"


def picked_tables(picked: Picked) -> list[Table]:
    """Those that meet the bounds, those that may, and the nearest that fail; without those that would be empty."""
    several = len(picked.runs) > 1

    def metric(of: Metric) -> list[Column[Candidate]]:
        key = f"{of}_{UNITS[of].lower()}"
        show = partial(figure_text, of)
        return estimate(f"{NAMES[of]} {UNITS[of]}", lambda each: each.figures[of], show, key, UNKNOWN)

    def limits(each: Candidate) -> str | None:
        roofline = each.explained.roofline if each.explained else None
        if roofline is None or roofline.bound is None:
            return None
        share = roofline.lower_bound_share
        return BOUND_BY[roofline.bound] + (f" ({percent(share)})" if share else "")

    columns: list[Column[Candidate]] = [
        words("model", lambda each: each.record.case.label, axis=True),
        words("backend", lambda each: each.record.case.backend, axis=True),
        figure("run" if several else "", lambda each: 1 + picked.runs.index(each.run), "{:.0f}".format, axis=True),
        *(column for of in ("p50", "memory", "accuracy", "size") for column in metric(of)),
        hidden("accuracy_source", lambda each: accuracy_source(picked.data)),
        words("limits", limits),
    ]
    ranked = [
        Column("rank", lambda each: each.rank, lambda each: f"{each.rank}{'=' if each.tied else ''}", is_axis=True),
        *columns,
    ]
    why = [*columns[:3], words("fails by", lambda each: failure(each) or NONE), *columns[3:-1]]
    title = "Meet all bounds" if picked.bounds else "Measured"
    numbered = [f" Run {number}: {run.folder.name}." for number, run in enumerate(picked.runs, start=1)]
    caption = CAPTION.format(source=_source(picked.data)) + ("".join(numbered) if several else "")
    tables = [
        table_of("meet", title, caption, picked.meets, ranked),
        table_of("may", "May meet them", "A bound is inside an interval. Columns as above.", picked.may, ranked),
        table_of("fail", "Just fail", "The nearest first. Columns as above.", picked.fails[:MAX_NEAR], why),
    ]
    return [table for table in tables if table.rows]

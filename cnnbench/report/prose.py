"""Why a model is as fast as it is, in plain words made from measured numbers."""

from collections.abc import Iterable

from cnnbench.analysis.explain import Explained, explain, telling
from cnnbench.analysis.roofline import Bound, Part, share_between
from cnnbench.records.run_folder import Run
from cnnbench.report.format import format_count, significant
from cnnbench.suite.runtimes import REFERENCE, runtime_kind, split

MIN_PART = 0.1
"""Of a call's time: what takes less is not worth a word."""
MAX_PARTS = 2
FAR_BELOW = 0.25
"""Of the measured time: where the ceilings allow less than this, something else holds the work back."""
EVEN = 0.1
"""Ratios that differ by less than this are called the same."""
BOUND_BY: dict[Bound, str] = {"compute": "by compute", "memory": "by memory", "calls": "by the cost of a call"}
UNKNOWN_CEILINGS = (
    "What this machine can do was not measured, so it is unknown what binds it; "
    "`cnnbench doctor --peaks --into RUN` measures it."
)


def paragraphs(run: Run) -> dict[str, str]:
    """One paragraph per model, by its label: its MACs and time beside the heaviest model's, and where the time goes.

    Of the inference cases alone, at the batch, device and precision that most models have; of several such the
    smallest batch.
    """
    explained = {each.case.id: each for each in explain(run).values()}
    chosen = [explained[case.id] for case in telling(each.case for each in explained.values())]
    by_runtime: dict[str, dict[str, Explained]] = {}
    for each in chosen:
        by_runtime.setdefault(each.case.runtime, {})[each.case.label] = each
    if not by_runtime:
        return {}
    runtimes = sorted(by_runtime, key=lambda name: name != REFERENCE)
    found: dict[str, str] = {}
    for model in dict.fromkeys(each.case.label for each in chosen):
        first, *others = [runtime for runtime in runtimes if model in by_runtime[runtime]]
        text = [*_first(by_runtime[first][model], by_runtime[first].values())]
        text += [sentence for runtime in others for sentence in _other(by_runtime[runtime][model])]
        found[model] = " ".join(dict.fromkeys(text))  # what is unknown is said once
    return found


def _first(each: Explained, beside: Iterable[Explained]) -> Iterable[str]:
    case = each.case
    heaviest = max(beside, key=lambda other: other.macs)
    where = f"{name_of(case.runtime)}, batch {case.batch}"
    if heaviest is each:
        yield f"{case.label} has the most MACs here, {format_count(each.macs)}, and takes {_ms(each)} ({where})."
    else:
        fewer, faster = heaviest.macs / each.macs, heaviest.seconds / each.seconds
        yield (
            f"{case.label} has {significant(fewer)} times fewer MACs than {heaviest.case.label} "
            f"{_speed(fewer, faster)} here ({_ms(each)} against {_ms(heaviest)}; {where})."
        )
    yield from _where(each)
    yield from _in_all(each)


def _other(each: Explained) -> Iterable[str]:
    yield f"In {name_of(each.case.runtime)} it takes {_ms(each)}."
    yield from _where(each)
    yield from _in_all(each)


def name_of(runtime: str) -> str:
    """A runtime as people call it."""
    name, variant = split(runtime)
    return (runtime_kind(name).display_name or name) + (f" ({variant})" if variant else "")


def _speed(fewer: float, faster: float) -> str:
    if faster < 1:
        return f"but is {significant(1 / faster, 2)} times slower"
    if faster < fewer * (1 - EVEN):
        return f"but is only {significant(faster, 2)} times faster"
    if faster > fewer * (1 + EVEN):
        return f"and is even {significant(faster, 2)} times faster"
    return f"and is {significant(faster, 2)} times faster"


def _where(each: Explained) -> Iterable[str]:
    """Where the time goes: by the profile, else by the least times of the layers."""
    told = [part for part in each.parts if part.share >= MIN_PART][:MAX_PARTS]
    if told:
        yield "; ".join(_part(part, first=place == 0) for place, part in enumerate(told)) + "."
        assert each.profile is not None
        between = share_between(each.profile, each.case, each.seconds)
        if between >= MIN_PART:
            yield f"{_percent(between)} passes between the operators."
        if each.profile.times[split(each.case.runtime)[0]].has_interference:
            yield "Something disturbed the profile, so these shares are rough."
        return
    lower_bound: dict[str, float] = {}
    for layer in each.roofline.layers:
        lower_bound[layer.work.kind] = lower_bound.get(layer.work.kind, 0.0) + (layer.total_s or 0.0)
    if each.roofline.lower_bound_s:
        kind, seconds = max(lower_bound.items(), key=lambda item: item[1])
        share = _percent(seconds / each.roofline.lower_bound_s)
        yield f"No layer was timed by itself; {share} of the least time that the ceilings allow is in {kind}."


def _part(part: Part, *, first: bool) -> str:
    start = (
        f"{_percent(part.share)} of its time is in {part.name}" if first else f"{_percent(part.share)} in {part.name}"
    )
    plural = part.name.endswith("s")
    share, bound = part.roofline.compute_share, part.roofline.bound
    clauses = []
    if not part.roofline.macs:
        clauses.append("have no MACs" if plural else "has no MACs")
    elif share is not None:
        clauses.append(f"{'reach' if plural else 'reaches'} {_percent(share)} of the peak")
    if bound is not None:
        clauses.append(f"{'are' if plural else 'is'} bound {BOUND_BY[bound]}")
    told = f", which {' and '.join(clauses)}" if clauses else ""
    lower_bound = part.roofline.lower_bound_share
    if lower_bound and lower_bound < FAR_BELOW:
        told += (
            f", though {'they take' if plural else 'it takes'} {significant(1 / lower_bound, 2)} times what that allows"
        )
    return start + told


def _in_all(each: Explained) -> Iterable[str]:
    roofline = each.roofline
    if roofline.peak_flops_per_s is None:
        yield UNKNOWN_CEILINGS
        return
    peak = f"{format_count(roofline.peak_flops_per_s)}FLOP/s"
    if roofline.lower_bound_s is None or roofline.bound is None:
        yield f"In all it reaches {_percent(roofline.compute_share or 0.0)} of the peak of {peak}."
        return
    yield (
        f"In all it reaches {_percent(roofline.compute_share or 0.0)} of the peak of {peak}; the ceilings allow "
        f"{significant(1e3 * roofline.lower_bound_s, 2)} ms, {_percent(roofline.lower_bound_share or 0.0)} of what it "
        "takes, "
        f"bound most of all {BOUND_BY[roofline.bound]}."
    )


def _ms(each: Explained) -> str:
    return f"{significant(1e3 * each.seconds)} ms"


def _percent(share: float) -> str:
    return f"{significant(100 * share, 2)} %"

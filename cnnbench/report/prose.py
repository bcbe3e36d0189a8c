"""Why a model is as fast as it is: sentences made from measured numbers."""

from collections import defaultdict
from collections.abc import Iterable

from cnnbench.analysis.explain import Explained, telling
from cnnbench.analysis.kernel import MUCH, faults_per_call, is_much
from cnnbench.analysis.roofline import Bound, Part
from cnnbench.report.format import format_count, percent, significant
from cnnbench.suite.runtimes import REFERENCE, runtime_kind, split

MIN_PART = 0.1
"""Of a call's time: smaller parts are left out."""
MAX_PARTS = 2
FAR_BELOW = 0.25
"""Where the lower bound is a smaller share of the measured time, the peaks do not explain that time."""
EQUAL = 0.1
"""Ratios that differ by less than this count as equal."""
BOUND_BY: dict[Bound, str] = {
    "compute": "compute-bound",
    "memory": "memory-bound",
    "overhead": "overhead-bound",
    "kernel": "bound by OS kernel time",
}
MAX_KERNEL = 5
"""So many cases with a large share of kernel time are listed one by one."""
UNKNOWN_PEAKS = (
    "This machine's peaks were not measured, so what limits it is unknown; "
    "`cnnbench doctor --peaks --into RUN` measures them."
)


def paragraphs(explained: Iterable[Explained]) -> dict[str, str]:
    """One paragraph per model, by its label: its MACs and time beside the heaviest model's, and where the time goes.

    Of the inference cases alone, at the batch, device and precision that most models have; of several such the
    smallest batch.
    """
    by_id = {each.record.id: each for each in explained}
    chosen = [by_id[case.id] for case in telling(each.case for each in by_id.values())]
    by_runtime: dict[str, dict[str, Explained]] = {}
    for each in chosen:
        by_runtime.setdefault(each.case.runtime, {})[each.case.label] = each
    runtimes = sorted(by_runtime, key=lambda name: name != REFERENCE)
    found: dict[str, str] = {}
    for model in dict.fromkeys(each.case.label for each in chosen):
        first, *others = [by_runtime[runtime] for runtime in runtimes if model in by_runtime[runtime]]
        text = [_beside_heaviest(first[model], first.values()), *_time(first[model])]
        for each in (other[model] for other in others):
            text += [f"In {name_of(each.case.runtime)} it takes {_ms(each)}.", *_time(each)]
        found[model] = " ".join(dict.fromkeys(text))  # what is unknown is said once
    return found


def kernel_paragraph(explained: Iterable[Explained]) -> str:
    """Which cases spend much of their CPU time in the kernel, the largest shares first; empty if none does."""
    found = [each for each in explained if is_much(each.roofline.kernel_share)]
    if not found:
        return ""
    found.sort(key=lambda each: -(each.roofline.kernel_share or 0.0))
    more = len(found) - MAX_KERNEL
    rest = f" The column kernel has {more} more case{'s' * (more > 1)}." if more > 0 else ""
    return (
        f"Memory: {len(found)} case{'s spend' if len(found) > 1 else ' spends'} more than {percent(MUCH)} of the CPU "
        "time in the operating system's kernel, mostly on page faults: the allocator returns freed memory to the "
        "system and requests it again at each call. An allocator that keeps freed memory avoids this "
        f"(`allocators: [default, keep]`). {' '.join(map(_kernel, found[:MAX_KERNEL]))}{rest}"
    )


def _kernel(each: Explained) -> str:
    case, faults = each.case, faults_per_call(each.record.launches)
    share = percent(each.roofline.kernel_share or 0.0)
    touched = f", with {faults:,.0f} page faults in each call" if faults else ""
    gain = ""
    if each.kept is not None:
        record, ratio = each.kept
        gain = f"; with allocator {record.case.allocator} the call takes {significant(ratio.value, 2)} of the time"
    return f"{case.label}, {case.workload}, {case.backend}, batch {case.batch}: {share}{touched}{gain}."


def name_of(runtime: str) -> str:
    """A runtime's display name."""
    name, variant = split(runtime)
    return (runtime_kind(name).display_name or name) + (f" ({variant})" if variant else "")


def _beside_heaviest(each: Explained, beside: Iterable[Explained]) -> str:
    case = each.case
    heaviest = max(beside, key=lambda other: other.macs)
    where = f"{name_of(case.runtime)}, batch {case.batch}"
    if heaviest is each:
        return f"{case.label} has the most MACs here, {format_count(each.macs)}, and takes {_ms(each)} ({where})."
    if not each.macs:
        return f"{case.label} has no MACs, and takes {_ms(each)} ({where})."
    fewer, faster = heaviest.macs / each.macs, heaviest.seconds / each.seconds
    times_faster = f"{significant(faster, 2)} times faster"
    if faster < 1:
        speed = f"but is {significant(1 / faster, 2)} times slower"
    elif faster < fewer * (1 - EQUAL):
        speed = f"but is only {times_faster}"
    else:
        speed = f"and is {'even ' if faster > fewer * (1 + EQUAL) else ''}{times_faster}"
    return (
        f"{case.label} has {significant(fewer)} times fewer MACs than {heaviest.case.label} "
        f"{speed} here ({_ms(each)} against {_ms(heaviest)}; {where})."
    )


def _time(each: Explained) -> Iterable[str]:
    """Where the time goes, by the profile, else by the layers' lower bounds; then the whole call's lower bound."""
    main = [part for part in each.parts if part.share >= MIN_PART][:MAX_PARTS]
    if main and each.profiled:
        yield from map(_part, main)
        overhead = each.profiled.framework_overhead
        if overhead >= MIN_PART:
            yield f"Framework overhead between operators takes {percent(overhead)}."
        if each.profiled.times.has_interference:
            yield "Interference was detected during profiling, so these shares are approximate."
    elif each.roofline.lower_bound_s:
        kinds: dict[str, float] = defaultdict(float)
        for layer in each.roofline.layers:
            kinds[layer.work.kind] += layer.total_s or 0.0
        kind, seconds = max(kinds.items(), key=lambda item: item[1])
        share = seconds / each.roofline.lower_bound_s
        yield f"There is no layer profile; {percent(share)} of the lower bound is {kind}."
    yield _whole(each)


def _part(part: Part) -> str:
    """Share, rate, limit, and the distance from the lower bound where that is large."""
    roofline, share = part.roofline, part.roofline.lower_bound_share
    facts = [] if roofline.macs else ["no MACs"]
    if roofline.macs and roofline.compute_share is not None:
        facts.append(f"{percent(roofline.compute_share)} of peak")
    if roofline.bound is not None:
        facts.append(BOUND_BY[roofline.bound])
    if share and share < FAR_BELOW:
        facts.append(f"{significant(1 / share, 2)} times slower than the lower bound")
    verb = "take" if part.name.endswith("s") else "takes"
    known = f" ({', '.join(facts)})" if facts else ""
    return f"{part.name[0].upper()}{part.name[1:]} {verb} {percent(part.share)} of the time{known}."


def _whole(each: Explained) -> str:
    roofline = each.roofline
    if roofline.peak_flops_per_s is None or roofline.compute_share is None:
        return UNKNOWN_PEAKS
    peak = f"{format_count(roofline.peak_flops_per_s)}FLOP/s"
    reached = f"The call reaches {percent(roofline.compute_share)} of the peak of {peak}."
    if roofline.lower_bound_s is None or roofline.lower_bound_share is None or roofline.bound is None:
        return f"{reached} Its lower bound is unknown."
    return (
        f"{reached} Its lower bound is {significant(1e3 * roofline.lower_bound_s, 2)} ms, "
        f"{percent(roofline.lower_bound_share)} of the measured time; it is mostly {BOUND_BY[roofline.bound]}."
    )


def _ms(each: Explained) -> str:
    return f"{significant(1e3 * each.seconds)} ms"

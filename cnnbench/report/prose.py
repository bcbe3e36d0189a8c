"""Why a model is as fast as it is: a sentence for each runtime, made from measured numbers."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from cnnbench.analysis.explain import Explained, telling
from cnnbench.analysis.kernel import MUCH, faults_per_call, is_much
from cnnbench.analysis.roofline import Bound, Part
from cnnbench.report.format import percent, significant
from cnnbench.suite.runtimes import REFERENCE, runtime_kind, split

MIN_PART = 0.1
"""Of a call's time: smaller parts are left out."""
MAX_PARTS = 2
FAR_BELOW = 0.25
"""Where the lower bound is a smaller share of the measured time, the peaks do not explain that time."""
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


@dataclass(frozen=True)
class Cause:
    """One network in one runtime: its work and its time beside the heaviest network's, and where the time goes."""

    of: Explained
    macs_share: float | None
    """Of the heaviest network's MACs; None where that has none."""
    time_share: float
    """Of that network's time in the same runtime."""
    sentence: str


def causes(explained: Iterable[Explained]) -> list[Cause]:
    """One for each network and runtime, the runtimes of a network beside each other.

    Of the inference cases alone, at the batch, device and precision that most models have; of several such the
    smallest batch. The heaviest network is the one with the most MACs in that runtime.
    """
    by_id = {each.record.id: each for each in explained}
    chosen = [by_id[case.id] for case in telling(each.case for each in by_id.values())]
    heaviest = {each.case.runtime: each for each in sorted(chosen, key=lambda each: each.macs)}
    order = list(dict.fromkeys(each.case.label for each in chosen))
    chosen.sort(key=lambda each: (order.index(each.case.label), each.case.runtime != REFERENCE))
    return [
        Cause(
            of=each,
            macs_share=each.macs / most.macs if most.macs else None,
            time_share=each.seconds / most.seconds,
            sentence=sentence(each),
        )
        for each in chosen
        for most in [heaviest[each.case.runtime]]
    ]


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


def sentence(each: Explained) -> str:
    """Where the time goes, by the profile, else by the layers' lower bounds; then what limits the whole call."""
    return "; ".join(part for part in (_parts(each), _whole(each)) if part)


def _parts(each: Explained) -> str:
    main = [part for part in each.parts if part.share >= MIN_PART][:MAX_PARTS]
    if main and each.profiled:
        found = list(map(_part, main))
        overhead = each.profiled.framework_overhead
        if overhead >= MIN_PART:
            found.append(f"framework overhead between operators {percent(overhead)}")
        approximate = ", approximately, since there was interference" if each.profiled.times.has_interference else ""
        return ", ".join(found) + approximate
    if not each.roofline.lower_bound_s:
        return ""
    kinds: dict[str, float] = defaultdict(float)
    for layer in each.roofline.layers:
        kinds[layer.work.kind] += layer.total_s or 0.0
    kind, seconds = max(kinds.items(), key=lambda item: item[1])
    return f"no layer profile; {percent(seconds / each.roofline.lower_bound_s)} of the lower bound is {kind}"


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
    known = f" ({', '.join(facts)})" if facts else ""
    return f"{part.name} {percent(part.share)}{known}"


def _whole(each: Explained) -> str:
    roofline = each.roofline
    if roofline.peak_flops_per_s is None or roofline.compute_share is None:
        return "limits unknown"
    reached = f"the call reaches {percent(roofline.compute_share)} of peak"
    if roofline.lower_bound_share is None or roofline.bound is None:
        return f"{reached}; its lower bound is unknown"
    return f"{reached} and is mostly {BOUND_BY[roofline.bound]}"

"""What a gate checks of itself: whether copies of base differ from base, and what else bears on its verdicts."""

from collections.abc import Sequence
from math import log
from statistics import fmean

from cnnbench.analysis.kernel import MUCH
from cnnbench.analysis.paired import Rule, confirmed
from cnnbench.gate.verdict import CaseVerdict

MIN_SHIFT_CASES, MIN_SHIFT_SHARE = 6, 0.9
"""Of at least this many cases, a share that leans the same way and is noted as a shift of the whole suite."""
BIAS_P = 0.01
"""Significance level of a sign test on null arms."""


def untrusted(cases: Sequence[CaseVerdict], rule: Rule) -> list[str]:
    """How null arms, which are copies of base, differ from base; empty if they do not."""
    from scipy.stats import binomtest

    nulls = [case for case in cases if case.null.pairs >= rule.screen_pairs]
    ratios = [case.null for case in nulls]
    verdicts = confirmed(ratios, ratios, rule)  # tested in the direction of their own ratio: two-sided
    found = [
        f"{case.comparison.name}: a second copy of base seems {verdict}, {case.null.ratio:.3f} times base"
        for case, verdict in zip(nulls, verdicts, strict=True)
        if verdict
    ]
    above = sum(ratio.ratio > 1 for ratio in ratios)
    if nulls and binomtest(above, len(nulls)).pvalue < BIAS_P:
        found.append(f"{above} of {len(nulls)} null arms are slower than base: the measurement is biased")
    return found


def shift(cases: Sequence[CaseVerdict], rule: Rule) -> list[str]:
    """A note if nearly all cases lean the same way, none by more than the margin."""
    ratios = [case.ratio.ratio for case in cases if case.ratio.pairs >= rule.screen_pairs]
    if len(ratios) < MIN_SHIFT_CASES or any(abs(log(ratio)) > log(1 + rule.margin) for ratio in ratios):
        return []
    slower = sum(ratio > 1 for ratio in ratios)
    count, way = max((slower, "slower"), (len(ratios) - slower, "faster"))
    is_shift = count > MIN_SHIFT_SHARE * len(ratios)
    return [f"a shift of the whole suite: {count} of {len(ratios)} cases lean {way}"] if is_shift else []


def kernel(cases: Sequence[CaseVerdict]) -> list[str]:
    """A note on the cases that compare two runtimes, one of which spends much of its time in the kernel."""
    found = [
        case.comparison.name
        for case in cases
        if case.comparison.base.runtime != case.comparison.head.runtime and any(pair.in_kernel for pair in case.pairs)
    ]
    return [
        f"{name}: one of the two runtimes spends more than {MUCH:.0%} of its CPU time in the operating system's "
        "kernel, mostly on page faults: the allocator returns freed memory to the system and requests it again at each "
        "call. The ratio depends on the allocator too; allocator=keep keeps freed memory"
        for name in found
    ]


def position(cases: Sequence[CaseVerdict]) -> float | None:
    """Mean log of the later started arm's time over the earlier's, over all pairs."""
    pairs = [pair for case in cases for pair in case.pairs if "head" in pair.logs]
    signs = [1 if pair.order.index("base") < pair.order.index("head") else -1 for pair in pairs]
    return fmean(sign * pair.logs["head"] for sign, pair in zip(signs, pairs, strict=True)) if pairs else None

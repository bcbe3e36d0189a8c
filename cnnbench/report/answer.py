"""The answer of a run in words: ten lines for a terminal, a few figures for a page."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from cnnbench.analysis.answer import Answer, Backend, Best, Fastest, LeftOut, Trust, backend_of
from cnnbench.analysis.cases import CaseRow
from cnnbench.analysis.kernel import MUCH
from cnnbench.analysis.pareto import Point
from cnnbench.analysis.serving import Service
from cnnbench.analysis.stats import NOISY_HALF_WIDTH
from cnnbench.report.format import accuracy_source, accuracy_text, interval_text, percent, ratio_text, significant
from cnnbench.report.prose import BOUND_BY, name_of
from cnnbench.report.reasons import INTERFERENCE, REASONS, reason_text
from cnnbench.report.serving import rate_text

MAX_LINES = 10
MAX_FASTEST = 3
MAX_BEST = 3
MAX_SERVED = 3
MANY_BLOCKS = 0.05
"""Of all blocks: from this share on, interference is the first thing to change."""
MAX_BATCHES = 3
"""More batches are named by the smallest and the largest."""
FEW_LAUNCHES = 3
"""Fewer launches have an interval that knows little of the variation between processes."""


class Line(NamedTuple):
    """One line of the answer."""

    label: str
    text: str


@dataclass(frozen=True)
class Figure:
    """A figure that matters."""

    value: str
    interval: str
    what: str


def joined(words: Sequence[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def batch_text(batches: Sequence[int]) -> str:
    """`batch 8`, `batch 8 and 64`, `batch 1 to 64` of ascending batches."""
    if len(batches) > MAX_BATCHES:
        return f"batch {batches[0]} to {batches[-1]}"
    return f"batch {joined(list(map(str, batches)))}"


def backend_name(backend: Backend) -> str:
    """`ONNX Runtime`, or `PyTorch (memory kept)`."""
    runtime, *others = backend
    settings = ", ".join("memory kept" if each == "keep" else each for each in others)
    return name_of(runtime) + (f" ({settings})" if settings else "")


def question(answer: Answer) -> str:
    """What the run answers; the suite's name where nothing was measured."""
    if not answer.measured:
        return answer.run.suite
    number = len(answer.models)
    which = answer.models[0] if number == 1 else f"Which of {number} networks"
    asked = "how many queries per second?" if answer.workloads == ["serving"] else "how fast, and why?"
    return f"{which}, in {joined(_runtimes(answer), 'or')}: {asked}"


def subject(answer: Answer) -> str:
    """What was measured, on what."""
    environment = answer.run.environment
    where = environment.label if environment else "an unknown machine"
    if not answer.measured:
        return f"{answer.run.suite} on {where}: nothing was measured"
    number, cases = len(answer.models), answer.measured
    networks = answer.models[0] if number == 1 else f"{number} networks"
    return (
        f"{answer.run.suite} on {where}: {networks}, {joined(answer.workloads)} in {joined(_runtimes(answer))}; "
        f"{cases} case{'s' * (cases != 1)}"
    )


def _runtimes(answer: Answer) -> list[str]:
    return list(dict.fromkeys(name_of(backend[0]) for backend in answer.backends))


def lines(answer: Answer, page: str = "") -> list[Line]:
    """At most ten: what was measured, what is fastest, what is best, what limits it, how far to trust it, the page.

    Without a page they stand in the run's own folder, whose path is left out, and are set in a proportional font.
    """
    above = [Line("", subject(answer)), *map(_fastest, answer.fastest[:MAX_FASTEST]), *_served(answer)]
    below = [
        *([Line("Trust", " ".join([trust(answer.trust), *advice(answer)[:1]]))] if answer.measured else []),
        *([Line("Wrong", text)] if (text := wrong(answer)) else []),
        *([Line("Left out", text)] if (text := " ".join(left_out(answer))) else []),
        *([Line("Page", page)] if page else []),
    ]
    best, room = list[Best](), min(MAX_BEST, MAX_LINES - 1 - len(above) - len(below))
    for front in _fronts(answer):
        best += _ends(front, room - len(best))
    limited = [Line("Limits", text)] if (text := limits(best, str(answer.run.folder) if page else "RUN")) else []
    networks = _networks(best, is_aligned=bool(page)) if best else _quickest(answer)
    return [*above, *networks, *limited, *below]


def _fronts(answer: Answer) -> list[list[Best]]:
    """The best by the accuracies that may be compared: those of one data set, or published."""
    return [[*front] for _, front in groupby(answer.best, lambda each: each.point.data)]


def _ends(best: Sequence[Best], room: int) -> list[Best]:
    """Of the networks as many as there is room for, the most accurate one with them."""
    if len(best) <= room or room < 1:
        return [*best[: max(room, 0)]]
    return [*best[: room - 1], best[-1]]


def _served(answer: Answer) -> list[Line]:
    """For each network that was served: the highest rate of each backend within the bound, the highest first."""
    best: dict[str, dict[str, Service]] = {case.spec.label: {} for case, _ in answer.served}
    for case, service in sorted(answer.served, key=lambda each: -(each[1].valid or 0.0)):
        best[case.spec.label].setdefault(backend_name(backend_of(case)), service)
    found: list[str] = []
    for model, services in best.items():
        bound = f"queries/s with p99 within {significant(1e3 * next(iter(services.values())).bound_s)} ms"
        found.append(f"{model}: {', '.join(f'{name} {rate_text(each)}' for name, each in services.items())} {bound}")
    return [Line("" if place else "Serving", text) for place, text in enumerate(found[:MAX_SERVED])]


def _fastest(each: Fastest) -> Line:
    label = each.workload.capitalize() + ("" if each.device == "cpu" else f" {each.device.upper()}")
    return Line(label + ("" if each.precision == "fp32" else f" {each.precision}"), fastest_text(each))


def fastest_text(each: Fastest) -> str:
    """`ONNX Runtime ×2.26 [2.21, 2.31] as fast as PyTorch, faster in 18 of 18 (batch 1 and 8)`, of so many cases."""
    first, second = backend_name(each.backend), backend_name(each.next)
    ratio, of = ratio_text(each.vs_next), f"faster in {each.faster_in} of {each.cases}"
    at = f" ({batch_text(each.batches)})"
    if each.is_tied:
        return f"{first} and {second} cannot be told apart: {ratio}, {of}{at}"
    beside = f", {ratio_text(each.vs_reference)} as PyTorch" if each.vs_reference else ""
    slower = f", slower in {each.slower_in}" if each.slower_in else ""
    return f"{first} {ratio} as fast as {second}{beside}, {of}{slower}{at}"


def _quickest(answer: Answer) -> list[Line]:
    """The fastest networks, where no accuracies can be compared."""
    found = answer.quickest[:MAX_BEST]
    listed = [f"{row.model} {interval_text(row.ms)} ms" for row in found if row.ms]
    more = len(answer.quickest) - len(found)
    rest = f" and {more} more" if more > 0 else ""
    text = f"{', '.join(listed)}{rest}; no accuracies to compare"
    return [Line("Networks", f"batch {found[0].batch}: {text}")] if found else []


def _networks(best: Sequence[Best], *, is_aligned: bool) -> list[Line]:
    """A line for each: in columns, or as a list."""
    cells = [_cells(each) for each in best]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    texts = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    if not is_aligned:
        texts = [", ".join(filter(None, row)) for row in cells]
    return [Line("" if place else "Networks", text) for place, text in enumerate(texts)]


def _cells(best: Best) -> list[str]:
    row = best.point.row
    memory = f"{row.peak_mib:,.0f} MiB" if row.peak_mib else ""
    runtime = row.backend.replace(f"/{row.device}", "")
    where = f"{runtime}, batch {row.batch}"
    return [row.model, f"{interval_text(best.point.ms)} ms", _top1(best.point), memory, where]


def _top1(point: Point) -> str:
    """`top-1 72.2 % (published)`, `top-1 93.2 [92.0, 94.2] % (measured on shapes)`."""
    return f"top-1 {accuracy_text(point.accuracy)} % ({accuracy_source(point.data)})"


def _case_name(row: CaseRow) -> str:
    """`mobilenet_v2 in ONNX Runtime, batch 1`, with a precision that is not float32."""
    return f"{row.model} in {backend_name(backend_of(row))}{_precision(row)}, batch {row.batch}"


def _precision(row: CaseRow) -> str:
    return "" if row.precision == "fp32" else f" {row.precision}"


def limits(best: Iterable[Best], folder: str) -> str:
    """`mobilenet_v2 (64 %) is compute-bound (share of the speed that the peaks allow)`; empty for no networks."""
    explained = [(each.point.row, each.explained) for each in best if each.explained]
    rooflines = {row.model + _precision(row): found.roofline for row, found in explained}
    known = {model: found for model, found in rooflines.items() if found.bound is not None}
    if not known:
        unknown = f"unknown, the machine's peaks were not measured: cnnbench doctor --peaks --into {folder}"
        return unknown if rooflines else ""
    texts = []
    for bound, group in groupby(sorted(known.items(), key=lambda item: str(item[1].bound)), lambda item: item[1].bound):
        shares = [
            f"{model} ({percent(found.lower_bound_share)})" if found.lower_bound_share else model
            for model, found in group
        ]
        texts.append(f"{joined(shares)} {'is' if len(shares) == 1 else 'are'} {BOUND_BY[bound]}" if bound else "")
    return "; ".join(texts) + " (share of the speed that the peaks allow)"


def trust(found: Trust) -> str:
    """`19 of 54 cases are ok, 35 noisy. The 95 % interval is typically ±5.8 % of a time and ±2.6 % of a ratio.`"""
    counts = {status: count for status, count in found.statuses.items() if status != "unavailable"}
    total, good = sum(counts.values()), counts.pop("ok", 0)
    statuses = [f"{good} of {total} cases are ok", *(f"{count} {status}" for status, count in counts.items())]
    widths = [
        f"±{percent(width)} of a {what}"
        for what, width in (("time", found.time_half_width), ("ratio", found.ratio_half_width))
        if width is not None
    ]
    known = f" The 95 % interval is typically {joined(widths)}." if widths else ""
    return f"{', '.join(statuses)}.{known}"


def advice(answer: Answer) -> list[str]:
    """What would make the numbers better, the most important first."""
    found, texts = answer.trust, []
    disturbed = max(found.interference.values(), default=0)
    if found.blocks and disturbed > MANY_BLOCKS * found.blocks:
        kind = next(iter(found.interference))
        share = percent(disturbed / found.blocks)
        texts.append(f"To improve this, use a quieter machine ({INTERFERENCE[kind][0]} in {share} of the blocks).")
    noisy = sum(found.noise.get(code, 0) for code in ("drift", "two-modes"))
    wide = found.noise.get("wide-interval", 0)
    if wide and wide >= noisy:
        processes = f"{found.launches} process{'es' * (found.launches != 1)}"
        few = f", and most cases were measured in {processes}" if found.launches < FEW_LAUNCHES else ""
        reach = "interval reaches" if wide == 1 else "intervals reach"
        limit = f"{100 * NOISY_HALF_WIDTH:g} %"
        texts.append(f"To improve this, rerun with a larger --budget: {wide} {reach} beyond ±{limit}{few}.")
    if noisy:
        cases = f"{noisy} case{'s' * (noisy != 1)}"
        texts.append(f"To improve this, fix the clock frequency and stop other load (drift or two modes in {cases}).")
    if kernel := sum(each.kernel for each in answer.fastest):
        texts.append(
            f"To improve this, set `allocators: [default, keep]` in the suite (in {kernel} of the ratios one side "
            f"spends more than {percent(MUCH)} of its CPU time in the kernel, which depends on the memory allocator)."
        )
    return texts


def wrong(answer: Answer) -> str:
    """Which cases failed or are invalid, and why the first is."""
    if not answer.wrong:
        return ""
    first = answer.wrong[0]
    why = f" ({reason_text(first.reasons[0])})" if first.reasons else ""
    more = f" and {len(answer.wrong) - 1} more" if len(answer.wrong) > 1 else ""
    return f"{first.id} is {first.status}{why}{more}"


def left_out(answer: Answer) -> list[str]:
    """`54 cases need CUDA: no NVIDIA driver.`, and how many have no record."""
    texts = [left_out_text(each) for each in answer.left_out]
    if answer.not_reached:
        cases = f"{answer.not_reached} case{'s' * (answer.not_reached != 1)} of the suite"
        texts.append(f"{cases} not asked for or not reached: --resume measures more.")
    return texts


def left_out_text(each: LeftOut) -> str:
    """`54 cases need CUDA: no NVIDIA driver.`"""
    one = each.cases == 1
    start = f"{each.cases} case{'' if one else 's'} "
    if each.needs:
        return f"{start}need{'s' if one else ''} {each.needs}: {each.detail or REASONS[each.code]}."
    return f"{start}cannot run: {each.detail or REASONS[each.code]}."


def figures(answer: Answer) -> list[Figure]:
    """Three to five figures of what was measured: speed of the fastest runtime, latency of the best networks, trust."""
    found = [
        Figure(
            f"×{each.vs_next.value:.2f}",
            _bracket(ratio_text(each.vs_next)),
            f"{_fastest(each).label}: speed of {backend_name(each.backend)} beside {backend_name(each.next)}, "
            f"{batch_text(each.batches)}, geometric mean of {each.cases} case{'s' * (each.cases != 1)}"
            + (": no significant difference" if each.is_tied else ""),
        )
        for each in answer.fastest[:2]
    ]
    ends = [front[place] for front in _fronts(answer)[:1] for place in sorted({0, len(front) - 1})]
    for each in ends:
        row, text = each.point.row, interval_text(each.point.ms)
        memory = f", {row.peak_mib:,.0f}\u00a0MiB of memory" if row.peak_mib else ""
        top1 = _top1(each.point).replace(" %", "\u00a0%")
        what = f"{_case_name(row)}: {top1}{memory}"
        found.append(Figure(f"{text.split(' ')[0]} ms", _bracket(text), what))
    if not ends and answer.quickest and (ms := answer.quickest[0].ms):
        row, text = answer.quickest[0], interval_text(ms)
        what = f"{_case_name(row)}, the fastest network"
        found.append(Figure(f"{text.split(' ')[0]} ms", _bracket(text), what))
    if (width := answer.trust.time_half_width) is not None:
        what = (
            f"typical 95 % interval of a time; {answer.trust.statuses.get('ok', 0)} of {answer.measured} cases are ok"
        )
        found.append(Figure(f"±{percent(width)}", "", what))
    return found


def _bracket(text: str) -> str:
    """The interval of a figure with one."""
    return text[text.index("[") :] if "[" in text else ""

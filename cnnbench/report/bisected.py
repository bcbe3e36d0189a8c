"""What a search for a commit found, in lines."""

from collections.abc import Iterator

from cnnbench.analysis.paired import PairedRatio
from cnnbench.gate.bisect import BisectReport
from cnnbench.records.printable import printable
from cnnbench.report.format import format_seconds
from cnnbench.runner.git import Commit

MAX_SUSPECTS = 10
MAX_SKIPPED = 5


def lines(report: BisectReport, again: str) -> Iterator[str]:
    """The commit with its belief, its size and what explains it; or what is known; `again` continues the search."""
    request, search = report.request, report.search
    yield (
        f"{request.case.id}: {request.commits[-1].hash[:12]} takes {_ratio(search.bad)} of the time of "
        f"{request.good.hash[:12]}, {len(request.commits)} commits before"
    )
    yield (
        f"{search.pairs} pairs of {len(search.logs)} commits in {format_seconds(report.seconds)}"
        + (f"; {len(search.unmeasurable)} could not be measured" if search.unmeasurable else "")
    )
    for number, why in list(search.unmeasurable.items())[:MAX_SKIPPED]:
        yield f"- stepped over: {_commit(request.commits[number - 1])}: {printable(why)}"
    if not report.has_changed:
        yield "no commit is to blame: the two ends do not differ" + ("" if report.in_time else f" so far; {again}")
        return
    if report.found is None:
        shown = report.suspects[:MAX_SUSPECTS]
        more = f" and {len(report.suspects) - len(shown)} less likely" if len(report.suspects) > len(shown) else ""
        shares = ", ".join(f"{100 * share:.0f}" for _, share in shown)
        yield f"one of these {len(shown)}{more}: {shares} %"
        yield from (f"- {share:.0%}: {_commit(commit)}" for commit, share in shown)
        yield "nothing that can be measured tells them apart" if report.in_time else f"the time is spent; {again}"
        return
    commit = request.commits[report.found - 1]
    yield f"{search.believed.max():.1%}: {_commit(commit)}"
    if report.ratio is not None and report.ratio.pairs:
        yield f"- {_ratio(report.ratio)} of its parent's time"
    if report.unexplained:
        yield f"- not explained: {printable(report.unexplained)}"
    yield from (f"- graph: {each}" for each in report.graph)
    if report.explanation is not None:
        differences = [each for each in report.explanation.differences if not each.startswith("revision:")]
        yield from (f"- {printable(each)}" for each in differences or ["versions and settings are the same"])
        for layer in report.explanation.layers:
            change = f"{layer.base_s * 1e3:.3g} to {layer.head_s * 1e3:.3g} ms"
            yield f"- layer {printable(layer.name)}: {change} ({(layer.head_s - layer.base_s) * 1e3:+.3g} ms)"
        if report.explanation.unprofiled:
            yield f"- no layers: {printable(report.explanation.unprofiled)}"


def _commit(commit: Commit) -> str:
    return f"{commit.hash[:12]} of {commit.committed:%Y-%m-%d}, {printable(commit.subject)[:100]}"


def _ratio(ratio: PairedRatio) -> str:
    if not ratio.pairs:
        return "an unknown share"
    interval = ratio.interval()
    return f"{ratio.ratio:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")

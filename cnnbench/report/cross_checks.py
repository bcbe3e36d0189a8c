"""A model's counts by every counter, side by side, in lines for people."""

from collections.abc import Iterator

from cnnbench.analysis.cross_checks import Verdict


def lines(verdict: Verdict, progress: str) -> Iterator[str]:
    """A heading with the progress, a line for each figure, then every difference with its reason."""
    reasons = f", {len(verdict.explained)} known difference(s)" if verdict.explained else ""
    yield f"{verdict.model}: {'all agree' if verdict.agree else 'DISAGREE'}{reasons}  [{progress}]"
    for what, by_counter in (("parameters", verdict.params), ("MACs", verdict.macs), ("backward", verdict.backward)):
        if by_counter:
            yield f"  {what}: " + ", ".join(f"{name} {value:,}" for name, value in by_counter.items())
    for source, figure in verdict.published.items():
        yield f"  {source}: {figure}"
    yield from (f"  = {line}" for line in verdict.explained)
    yield from (f"  ! {line}" for line in verdict.disagreements)
    yield from (f"  ! {name} failed: {why}" for name, why in verdict.failed.items())

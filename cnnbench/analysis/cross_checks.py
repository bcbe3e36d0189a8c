"""The counts of one model by every counter, side by side."""

from cnnbench.analysis import counts
from cnnbench.networks import registry
from cnnbench.networks.published import figures_of
from cnnbench.records.record import CounterResults
from cnnbench.suite.case import Frozen, ModelSpec


class Verdict(Frozen):
    """Figures of one model for one image, each by counter, and their differences."""

    model: str
    image_size: tuple[int, ...] | None
    params: dict[str, int]
    macs: dict[str, int]
    backward: dict[str, int]
    """MACs of the backward pass."""
    published: dict[str, str]
    """By source: what torchvision and the papers print, with or without auxiliary heads."""
    failed: dict[str, str]
    disagreements: list[str]
    explained: list[str]
    """Differences with a known reason."""

    @property
    def agree(self) -> bool:
        """Whether every counter succeeded and no two disagree."""
        return not self.disagreements and not self.failed


def judge(spec: ModelSpec, counters: CounterResults) -> Verdict:
    """Totals by counter, and every difference."""
    found, totals = counts.find(spec, counters), counts.totals_by_counter(spec, counters)
    return Verdict(
        model=spec.label,
        image_size=spec.image_size,
        params=totals.params,
        macs=totals.macs,
        backward={"dispatch" if name == "backward" else name: macs for name, macs in totals.backward.items()},
        published=_published(spec, counters),
        failed=counters.failed,
        disagreements=found.disagreements,
        explained=found.explained,
    )


def _published(spec: ModelSpec, counters: CounterResults) -> dict[str, str]:
    printed: dict[str, list[str]] = {}
    published = counters.published
    if published is not None:
        figures = [f"{published.params:,} parameters"]
        if published.giga_macs is not None:
            figures.append(f"{published.giga_macs} G MACs")
        printed[f"torchvision, {published.weights}"] = figures
    architecture = registry.find(spec.model)
    for figure in figures_of(architecture.name) if architecture else ():
        printed.setdefault(figure.source, []).append(str(figure))
    return {source: ", ".join(figures) for source, figures in printed.items()}

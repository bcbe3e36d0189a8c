"""Every counter of a model's parameters and MACs, side by side."""

from cnnbench.analysis import counts
from cnnbench.networks import registry
from cnnbench.networks.published import figures_of
from cnnbench.networks.training_cost import backward_macs
from cnnbench.records.record import CounterResults
from cnnbench.suite.case import Frozen, ModelSpec


class Verdict(Frozen):
    """What the witnesses say of one model."""

    model: str
    image_size: tuple[int, ...] | None
    params: dict[str, int]
    """By witness."""
    macs: dict[str, int]
    """By witness, for one image."""
    backward: dict[str, int]
    """MACs of the backward pass by witness, for one image."""
    published: dict[str, str]
    """By source: what torchvision and the papers print, auxiliary heads left out or not."""
    failed: dict[str, str]
    disagreements: list[str]
    explained: list[str]
    """Differences whose reason is known."""

    @property
    def agree(self) -> bool:
        """Whether every witness was heard and none disagrees with another."""
        return not self.disagreements and not self.failed


def judge(spec: ModelSpec, counters: CounterResults) -> Verdict:
    """Totals by witness, and every difference."""
    found = counts.find(spec, counters)
    everyone = {"closed form": counters.closed_form} if counters.closed_form is not None else {}
    everyone |= counters.counted
    return Verdict(
        model=spec.label,
        image_size=spec.image_size,
        params={
            name: counts.total(found, counts.PARAMS)
            for name, found in everyone.items()
            if counts.PARAMS in counts.SPEAKS_OF.get(name, (counts.PARAMS,))
        },
        macs={
            name: counts.total(found, counts.MACS)
            for name, found in everyone.items()
            if counts.MACS in counts.SPEAKS_OF.get(name, (counts.MACS,))
        },
        backward=_backward(spec, counters),
        published=_published(spec, counters),
        failed=counters.failed,
        disagreements=found.disagreements,
        explained=found.explained,
    )


def _backward(spec: ModelSpec, counters: CounterResults) -> dict[str, int]:
    totals = {}
    architecture = registry.find(spec.model)
    if architecture is not None:
        layers = architecture.network(spec.image_size, spec.classes).layers
        totals["closed form"] = sum(map(backward_macs, layers))
    if "backward" in counters.counted:
        totals["dispatch"] = counts.total(counters.counted["backward"], counts.MACS)
    return totals


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

"""Cross-checks of a model's parameters and MACs between independent counters."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from cnnbench.errors import CnnbenchError
from cnnbench.networks import registry
from cnnbench.networks.layers import Conv
from cnnbench.networks.network import Network
from cnnbench.networks.published import figures_of
from cnnbench.networks.training_cost import backward_macs, weight_gradient_macs
from cnnbench.records.record import CounterResults, Counts, CountsSummary, Published
from cnnbench.suite.case import ModelSpec

GIGA = 1e9
PARAMS, MACS = 0, 1
SPEAKS_OF = {
    "closed form": (PARAMS, MACS),
    "module": (PARAMS,),
    "dispatch": (MACS,),
    "fvcore": (MACS,),
    "onnx": (PARAMS, MACS),
    "backward": (),
}
"""Which of (parameters, forward MACs) each counter counts."""
NAMES = ("parameters", "MACs")


@dataclass
class Findings:
    """Every difference between counters."""

    disagreements: list[str] = field(default_factory=list)
    """Each names the layer and both numbers."""
    explained: list[str] = field(default_factory=list)
    """Differences with a known reason, and that reason."""


@dataclass(frozen=True)
class Totals:
    """Figures of a model for one image, each by counter."""

    params: dict[str, int]
    macs: dict[str, int]
    backward: dict[str, int]
    """MACs of the backward pass."""


def totals_by_counter(spec: ModelSpec, counters: CounterResults) -> Totals:
    """All layers together, of the closed form and every counter."""
    counted = dict(counters.counted)
    if counters.closed_form is not None:
        counted = {"closed form": counters.closed_form, **counted}
    params, macs = (
        {name: total(each, figure) for name, each in counted.items() if figure in SPEAKS_OF.get(name, ())}
        for figure in (PARAMS, MACS)
    )
    backward = {}
    if registry.find(spec.model) is not None:
        with suppress(CnnbenchError):  # another version's model, at a size that this one refuses
            network = registry.get(spec.model).network(spec.image_size, spec.classes)
            backward["closed form"] = sum(map(backward_macs, network.layers))
    if "backward" in counted:
        backward["backward"] = total(counted["backward"], MACS)
    return Totals(params, macs, backward)


def total(counts: Counts, figure: int) -> int:
    """Parameters or MACs over all layers."""
    return sum(pair[figure] for pair in counts.values())


def find(spec: ModelSpec, counters: CounterResults) -> Findings:
    """Every difference between counters.

    Layer by layer against the closed form where there is one; else in total, because counters may attribute functional
    calls to different modules.
    """
    found = Findings()
    if counters.closed_form is None:
        _compare_totals(spec, counters, found)
        return found
    network = registry.get(spec.model).network(spec.image_size, spec.classes)
    in_inference = {layer.name for layer in network.inference}
    for counter, counts in counters.counted.items():
        expected = counters.closed_form
        if counter == "onnx":  # the graph holds what inference needs
            expected = {name: pair for name, pair in expected.items() if name in in_inference}
        for figure in SPEAKS_OF[counter]:
            ours = {name: pair[figure] for name, pair in expected.items()}
            theirs = {name: pair[figure] for name, pair in counts.items()}
            found.disagreements += _differences(ours, theirs, NAMES[figure], counter)
    _compare_backward(network, counters.counted.get("backward"), found)
    if counters.published is not None:
        _compare_published(spec, counters.published, found)
    _compare_papers(spec, found)
    return found


def _differences(ours: Mapping[str, int], theirs: Mapping[str, int], unit: str, counter: str) -> list[str]:
    found = []
    for layer in {**ours, **theirs}:
        our, their = ours.get(layer, 0), theirs.get(layer, 0)
        if our != their:
            found.append(f"{layer or 'the module itself'}: {our:,} {unit} by formula, {their:,} by {counter}")
    return found


def _compare_backward(network: Network, counts: Counts | None, found: Findings) -> None:
    """The backward pass, where torch's counter may report `groups` times the MACs of a weight gradient."""
    if counts is None:
        return
    ours = {layer.name: backward_macs(layer) for layer in network.layers}
    theirs = {name: pair[MACS] for name, pair in counts.items()}
    wrong = {}
    for layer in network.layers:
        groups = layer.op.groups if isinstance(layer.op, Conv) else 1
        if theirs.get(layer.name) == ours[layer.name] + (groups - 1) * weight_gradient_macs(layer) and groups > 1:
            wrong[layer.name] = groups
            theirs[layer.name] = ours[layer.name]
    found.disagreements += _differences(ours, theirs, "backward MACs", "backward")
    if wrong:
        name, groups = max(wrong.items(), key=lambda item: item[1])
        found.explained.append(
            f"backward: torch's counter ignores `groups` in the weight gradients of {len(wrong)} convolutions; "
            f"for {name} it reports {groups} times the MACs"
        )


def _compare_published(spec: ModelSpec, published: Published, found: Findings) -> None:
    """torchvision's published totals against the formulas at the published size and number of classes."""
    architecture = registry.get(spec.model)
    network = architecture.network((published.image_size,) if published.image_size else None, architecture.classes)
    auxiliary = sum(layer.params for layer in network.layers if layer.training_only)
    if auxiliary and network.params - auxiliary == published.params:
        without = f"without the {auxiliary:,} of the auxiliary heads"
        found.explained.append(f"published: {published.params:,} parameters, {without}")
    elif network.params != published.params:
        found.disagreements.append(f"{network.params:,} parameters by formula, {published.params:,} published")
    _compare_giga_macs(network.macs, "formula", published, found)


def _compare_giga_macs(macs: int, counter: str, published: Published, found: Findings) -> None:
    """To the three decimals that torchvision prints."""
    giga_macs = published.giga_macs
    if giga_macs is not None and round(macs / GIGA, 3) != giga_macs:
        found.disagreements.append(f"{macs / GIGA:.3f} G MACs by {counter}, {giga_macs:.3f} G published")


def _compare_papers(spec: ModelSpec, found: Findings) -> None:
    """The papers' figures against the formulas."""
    architecture = registry.get(spec.model)
    for figure in figures_of(architecture.name):
        if figure.agrees(architecture):
            continue
        said = f"{figure.source}: {figure}"
        if figure.is_explained(architecture):
            found.explained.append(f"{said}: {figure.reason}")
        else:
            found.disagreements.append(f"{figure.counted(architecture):,} by formula; {said}")


def _compare_totals(spec: ModelSpec, counters: CounterResults, found: Findings) -> None:
    """The MAC counters against each other, and module and dispatch counter against published figures.

    The latter only at the model's own number of classes and, for MACs, at the published image size.
    """
    counted = counters.counted
    macs = {name: total(counted[name], MACS) for name in ("dispatch", "fvcore", "onnx") if name in counted}
    if len(set(macs.values())) > 1:
        found.disagreements.append(", ".join(f"{count:,} MACs by {name}" for name, count in macs.items()))
    published = counters.published
    if published is None or spec.classes is not None:
        return
    params = total(counted["module"], PARAMS)
    if params != published.params:
        found.disagreements.append(f"{params:,} parameters by module, {published.params:,} published")
    if "dispatch" in macs and spec.image_size is None:
        _compare_giga_macs(macs["dispatch"], "dispatch", published, found)


def notes(spec: ModelSpec, counters: CounterResults) -> list[str]:
    """Differences of a model with a closed form, with their reasons; those without a reason are marked."""
    if registry.find(spec.model) is None:
        return []
    with suppress(CnnbenchError):
        found = find(spec, counters)
        return [*found.explained, *(f"DISAGREE: {line}" for line in found.disagreements)]
    return []


def summary(spec: ModelSpec, counters: CounterResults) -> CountsSummary:
    """Totals and disagreements, for a record."""
    params = counters.closed_form or counters.counted["module"]
    macs = counters.closed_form or counters.counted.get("dispatch") or counters.counted.get("fvcore") or {}
    collected = list(counters.counted)
    if counters.closed_form is not None:
        collected = ["closed form", *collected]
    if counters.published is not None and (counters.closed_form is not None or spec.classes is None):
        collected.append("published")
    return CountsSummary(
        params=total(params, PARAMS),
        macs=total(macs, MACS),
        closed_form=counters.closed_form is not None,
        counters=collected,
        disagreements=find(spec, counters).disagreements,
        top1_percent=counters.published.top1_percent if counters.published else None,
    )

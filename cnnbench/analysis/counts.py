"""What the witnesses of a model's counts say of each other."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cnnbench.networks import registry as catalogue
from cnnbench.networks.layers import Conv
from cnnbench.networks.network import Network
from cnnbench.networks.published import figures_of
from cnnbench.networks.training_cost import backward_macs, weight_gradient_macs
from cnnbench.records.record import Counts, CountsSummary, Published, Witnesses
from cnnbench.suite.case import ModelSpec

PARAMS, MACS = 0, 1
SPEAKS_OF = {
    "module": (PARAMS,),
    "dispatch": (MACS,),
    "fvcore": (MACS,),
    "onnx": (PARAMS, MACS),
    "backward": (),
}
"""Which of (parameters, forward MACs) each witness counts."""
NAMES = ("parameters", "MACs")


@dataclass
class Findings:
    """What the witnesses' words come to."""

    disagreements: list[str] = field(default_factory=list)
    """Each names the layer and both numbers."""
    explained: list[str] = field(default_factory=list)
    """Differences whose reason is known, with the reason."""


def total(counts: Counts, figure: int) -> int:
    """Parameters or MACs over all layers."""
    return sum(pair[figure] for pair in counts.values())


def find(spec: ModelSpec, witnesses: Witnesses) -> Findings:
    """Every difference between witnesses.

    Against the closed form where there is one, layer by layer; else in total, because the counters may attribute
    functional calls to different modules.
    """
    found = Findings()
    if witnesses.closed_form is None:
        _compare_totals(spec, witnesses, found)
        return found
    network = catalogue.get(spec.model).network(spec.image_size, spec.classes)
    in_inference = {layer.name for layer in network.inference}
    for witness, counts in witnesses.counted.items():
        expected = witnesses.closed_form
        if witness == "onnx":  # the graph holds what inference needs
            expected = {name: pair for name, pair in expected.items() if name in in_inference}
        for figure in SPEAKS_OF[witness]:
            ours = {name: pair[figure] for name, pair in expected.items()}
            theirs = {name: pair[figure] for name, pair in counts.items()}
            found.disagreements += _differences(ours, theirs, NAMES[figure], witness)
    _compare_backward(network, witnesses.counted.get("backward"), found)
    if witnesses.published is not None:
        _compare_published(spec, witnesses.published, found)
    _compare_papers(spec, found)
    return found


def _differences(ours: Mapping[str, int], theirs: Mapping[str, int], unit: str, witness: str) -> list[str]:
    found = []
    for layer in {**ours, **theirs}:
        our, their = ours.get(layer, 0), theirs.get(layer, 0)
        if our != their:
            found.append(f"{layer or 'the module itself'}: {our:,} {unit} by formula, {their:,} by {witness}")
    return found


def _compare_backward(network: Network, counts: Counts | None, found: Findings) -> None:
    """The backward pass, where torch's counter may take a weight gradient for `groups` times what it is."""
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
            f"backward: torch's counter leaves `groups` out of the weight gradients of {len(wrong)} convolutions: "
            f"that of {name} it takes for {groups} times what it is"
        )


def _compare_published(spec: ModelSpec, published: Published, found: Findings) -> None:
    """torchvision's published totals against the formulas at the published size and number of classes."""
    arch = catalogue.get(spec.model)
    network = arch.network((published.image_size,) if published.image_size else None, arch.classes)
    auxiliary = sum(layer.params for layer in network.layers if layer.training_only)
    if network.params - auxiliary == published.params and auxiliary:
        found.explained.append(
            f"published: {published.params:,} parameters, without the {auxiliary:,} of the auxiliary heads"
        )
    elif network.params != published.params:
        found.disagreements.append(f"{network.params:,} parameters by formula, {published.params:,} published")
    if published.giga_macs is not None and round(network.macs / 1e9, 3) != published.giga_macs:
        found.disagreements.append(f"{network.macs / 1e9:.3f} G MACs by formula, {published.giga_macs:.3f} G published")


def _compare_papers(spec: ModelSpec, found: Findings) -> None:
    """The papers' figures against the formulas."""
    arch = catalogue.get(spec.model)
    for figure in figures_of(arch.name):
        if figure.agrees(arch):
            continue
        said = f"{figure.source}: {figure}"
        if figure.is_explained(arch):
            found.explained.append(f"{said}: {figure.reason}")
        else:
            found.disagreements.append(f"{figure.counted(arch):,} by formula; {said}")


def _compare_totals(spec: ModelSpec, witnesses: Witnesses, found: Findings) -> None:
    """The MAC counters against each other, and module and dispatch counter against published figures.

    The latter only at the model's own number of classes and, for MACs, at the published image size.
    """
    macs = {
        name: total(witnesses.counted[name], MACS)
        for name in ("dispatch", "fvcore", "onnx")
        if name in witnesses.counted
    }
    if len(set(macs.values())) > 1:
        found.disagreements.append(", ".join(f"{count:,} MACs by {name}" for name, count in macs.items()))
    published = witnesses.published
    if published is None or spec.classes is not None:
        return
    params = total(witnesses.counted["module"], PARAMS)
    if params != published.params:
        found.disagreements.append(f"{params:,} parameters by module, {published.params:,} published")
    if "dispatch" in macs and published.giga_macs is not None and spec.image_size is None:
        giga_macs = macs["dispatch"] / 1e9
        if round(giga_macs, 3) != published.giga_macs:
            found.disagreements.append(f"{giga_macs:.3f} G MACs by dispatch, {published.giga_macs:.3f} G published")


def summary(spec: ModelSpec, witnesses: Witnesses) -> CountsSummary:
    """Totals and disagreements, for a record."""
    params = witnesses.closed_form or witnesses.counted["module"]
    macs = witnesses.closed_form or witnesses.counted.get("dispatch") or witnesses.counted.get("fvcore") or {}
    heard = list(witnesses.counted)
    if witnesses.closed_form is not None:
        heard = ["closed form", *heard]
    if witnesses.published is not None and (witnesses.closed_form is not None or spec.classes is None):
        heard.append("published")
    return CountsSummary(
        params=total(params, PARAMS),
        macs=total(macs, MACS),
        closed_form=witnesses.closed_form is not None,
        witnesses=heard,
        disagreements=find(spec, witnesses).disagreements,
        top1_percent=witnesses.published.top1_percent if witnesses.published else None,
    )

"""Cross-checks of a model's parameters and MACs between independent counters."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from cnnbench.errors import CnnbenchError
from cnnbench.networks import registry
from cnnbench.networks.architecture import Architecture
from cnnbench.networks.layers import Conv
from cnnbench.networks.network import Network
from cnnbench.networks.published import figures_of
from cnnbench.networks.training import backward_macs, weight_gradient_macs
from cnnbench.records.record import ArtifactFacts, CounterResults, Counts, CountsSummary, Published
from cnnbench.suite.case import Frozen, ModelSpec

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


class Totals(NamedTuple):
    """Figures of a model for one image, each by counter."""

    params: dict[str, int]
    macs: dict[str, int]
    backward: dict[str, int]
    """MACs of the backward pass."""


def _all_counted(counters: CounterResults) -> dict[str, Counts]:
    """By counter, the closed form first where there is one."""
    formulas = {} if counters.closed_form is None else {"closed form": counters.closed_form}
    return {**formulas, **counters.counted}


def totals_by_counter(spec: ModelSpec, counters: CounterResults) -> Totals:
    """All layers together, of the closed form and every counter."""
    counted = _all_counted(counters)
    params, macs = (
        {name: total(each, figure) for name, each in counted.items() if figure in SPEAKS_OF.get(name, ())}
        for figure in (PARAMS, MACS)
    )
    backward = {}
    if architecture := registry.find(spec.model):
        with suppress(CnnbenchError):  # another version's model, at a size that this one refuses
            network = architecture.network(spec.image_size, spec.classes)
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
    architecture = registry.get(spec.model)
    network = architecture.network(spec.image_size, spec.classes)
    in_inference = {layer.name for layer in network.inference}
    for counter, counts in counters.counted.items():
        expected = counters.closed_form
        if counter == "onnx":  # the graph holds what inference needs
            expected = {name: pair for name, pair in expected.items() if name in in_inference}
        for figure in SPEAKS_OF[counter]:
            found.disagreements += _differences(expected, counts, figure, NAMES[figure], counter)
    if "backward" in counters.counted:
        _compare_backward(network, counters.counted["backward"], found)
    if counters.published is not None:
        _compare_published(architecture, counters.published, found)
    _compare_papers(architecture, found)
    return found


def _differences(ours: Counts, theirs: Counts, figure: int, unit: str, counter: str) -> list[str]:
    none = (0, 0)
    return [
        f"{layer or 'the module itself'}: {our:,} {unit} by formula, {their:,} by {counter}"
        for layer in {**ours, **theirs}
        if (our := ours.get(layer, none)[figure]) != (their := theirs.get(layer, none)[figure])
    ]


def _compare_backward(network: Network, counts: Counts, found: Findings) -> None:
    """The backward pass, where torch's counter may report `groups` times the MACs of a weight gradient."""
    ours = {layer.name: (0, backward_macs(layer)) for layer in network.layers}
    theirs, wrong = dict(counts), {}
    for layer in network.layers:
        groups = layer.op.groups if isinstance(layer.op, Conv) else 1
        reported = backward_macs(layer) + (groups - 1) * weight_gradient_macs(layer)
        if groups > 1 and layer.name in counts and counts[layer.name][MACS] == reported:
            wrong[layer.name] = groups
            theirs[layer.name] = ours[layer.name]
    found.disagreements += _differences(ours, theirs, MACS, "backward MACs", "backward")
    if wrong:
        name = max(wrong, key=lambda name: wrong[name])
        found.explained.append(
            f"backward: torch's counter ignores `groups` in the weight gradients of {len(wrong)} convolutions; "
            f"for {name} it reports {wrong[name]} times the MACs"
        )


def _compare_published(architecture: Architecture, published: Published, found: Findings) -> None:
    """torchvision's published totals against the formulas at the published size and number of classes."""
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


def _compare_papers(architecture: Architecture, found: Findings) -> None:
    """The papers' figures against the formulas."""
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
    if "module" in counted and "onnx" in counted:
        _compare_params(counted["module"], counted["onnx"], found)
    macs = {name: total(counted[name], MACS) for name in ("dispatch", "fvcore", "onnx") if name in counted}
    unused = _unused_macs(counted)
    if unused and macs["onnx"] + sum(unused.values()) == macs["dispatch"]:
        found.explained.append(
            f"onnx: {macs['onnx']:,} of {macs['dispatch']:,} MACs: no output depends on the "
            f"{sum(unused.values()):,} others, of {', '.join(unused)}"
        )
        macs["onnx"] = macs["dispatch"]
    if len(set(macs.values())) > 1:
        found.disagreements.append(", ".join(f"{count:,} MACs by {name}" for name, count in macs.items()))
    published = counters.published
    if published is None or spec.classes is not None:
        return
    params = total(counted["module"], PARAMS) if "module" in counted else None
    if params not in (None, published.params):
        found.disagreements.append(f"{params:,} parameters by module, {published.params:,} published")
    if "dispatch" in macs and spec.image_size is None:
        _compare_giga_macs(macs["dispatch"], "dispatch", published, found)


def _unused_macs(counted: Mapping[str, Counts]) -> dict[str, int]:
    """MACs of modules that are run, though nothing of them is in the inference graph, because no output needs them."""
    if not counted.keys() >= {"module", "dispatch", "onnx"}:
        return {}
    graph = counted["onnx"]
    idle = [
        name for name, pair in counted["module"].items() if name and pair[PARAMS] and graph.get(name, (0, 0)) == (0, 0)
    ]
    return {name: counted["dispatch"][name][MACS] for name in idle if counted["dispatch"].get(name, (0, 0))[MACS]}


def _compare_params(module: Counts, graph: Counts, found: Findings) -> None:
    """A module's parameters against those in its inference graph, which lacks what inference does not use."""
    ours, theirs = total(module, PARAMS), total(graph, PARAMS)
    if ours == theirs:
        return
    unused = {name: pair[PARAMS] for name, pair in module.items() if pair[PARAMS] > graph.get(name, (0, 0))[PARAMS]}
    if ours - sum(unused.values()) <= theirs < ours:
        found.explained.append(
            f"onnx: {theirs:,} of the module's {ours:,} parameters: nothing that inference computes uses the "
            f"{ours - theirs:,} others, of {', '.join(name or 'the module itself' for name in unused)}"
        )
    else:
        found.disagreements.append(f"{ours:,} parameters by module, {theirs:,} by onnx")


def notes(spec: ModelSpec, counters: CounterResults) -> list[str]:
    """Differences of a model with a closed form, with their reasons; those without a reason are marked."""
    if registry.find(spec.model) is not None:
        with suppress(CnnbenchError):
            found = find(spec, counters)
            return [*found.explained, *(f"DISAGREE: {line}" for line in found.disagreements)]
    return []


def published_for(spec: ModelSpec, facts: ArtifactFacts) -> Published | None:
    """What torchvision publishes of a model, if it is for the image size and the classes of this artifact."""
    published, architecture = facts.counters.published, registry.find(spec.model)
    if published is None or (size := published.image_size) is None or facts.input_shape[1:] != (size, size):
        return None
    has_its_classes = facts.classes == architecture.classes if architecture else spec.classes is None
    return published if has_its_classes else None


def summary(spec: ModelSpec, facts: ArtifactFacts) -> CountsSummary:
    """Totals and disagreements, for a record."""
    counters = facts.counters
    formulas, counted, published = counters.closed_form, counters.counted, counters.published
    names = list(_all_counted(counters))
    if published is not None and (formulas is not None or spec.classes is None):
        names.append("published")
    fitting = published_for(spec, facts)
    return CountsSummary(
        params=total(formulas or counted.get("module") or counted.get("onnx") or {}, PARAMS),
        macs=_first_total(formulas, counted.get("dispatch"), counted.get("onnx"), counted.get("fvcore")),
        closed_form=formulas is not None,
        counters=names,
        disagreements=find(spec, counters).disagreements,
        top1_percent=fitting.top1_percent if fitting else None,
        miou_percent=fitting.miou_percent if fitting else None,
    )


def _first_total(*counts: Counts | None) -> int | None:
    return next((total(each, MACS) for each in counts if each is not None), None)


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
    found, totals = find(spec, counters), totals_by_counter(spec, counters)
    return Verdict(
        model=spec.label,
        image_size=spec.image_size,
        params=totals.params,
        macs=totals.macs,
        backward={"dispatch" if name == "backward" else name: macs for name, macs in totals.backward.items()},
        published=_printed(spec, counters.published),
        failed=counters.failed,
        disagreements=found.disagreements,
        explained=found.explained,
    )


def _printed(spec: ModelSpec, published: Published | None) -> dict[str, str]:
    printed: dict[str, list[str]] = {}
    if published is not None:
        giga_macs = [] if published.giga_macs is None else [f"{published.giga_macs} G MACs"]
        printed[f"torchvision, {published.weights}"] = [f"{published.params:,} parameters", *giga_macs]
    architecture = registry.find(spec.model)
    for figure in figures_of(architecture.name) if architecture else ():
        printed.setdefault(figure.source, []).append(str(figure))
    return {source: ", ".join(figures) for source, figures in printed.items()}

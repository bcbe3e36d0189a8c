"""The layers of a model that has no closed form, from what was traced as it ran, with the same formulas."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cnnbench.errors import WorkerError
from cnnbench.networks import layers
from cnnbench.networks.layers import Joining, Op, Opaque, Value, spelled
from cnnbench.networks.network import Layer, Net, Network
from cnnbench.records.messages import Step, Traced


@dataclass(frozen=True)
class Reading:
    """A network as it was read, and what its figures leave out."""

    network: Network
    left_out: list[str]


def replay(name: str, traced: Traced) -> Reading:
    """The steps as layers, their figures computed by the formulas; steps whose shape these do not give are left out."""
    net = Net(name)
    values: list[Value] = []
    for step in traced.steps:
        inputs = [
            replace(values[place], shape=shape) if place >= 0 else Value(shape, storage=place + 1)
            for place, shape in step.inputs
        ]
        values.append(net(step.name, _op(step, inputs), inputs[0]))
    network = net.network(*traced.inputs)
    network = replace(network, layers=_as_trained(network.layers, traced))
    return Reading(network, _uncounted(network) + _unowned(network, traced.params))


def _as_trained(layers: Sequence[Layer], traced: Traced) -> tuple[Layer, ...]:
    """The layers with what training changes of them, and where its gradients go, as far as the trace tells."""
    found = [_with_gradients(layer, step) for layer, step in zip(layers, traced.steps, strict=True)]
    used = {value.layer for layer in found for value in layer.inputs}
    reached = {place for place in range(len(found)) if place not in used} | {*traced.outputs}
    for place in reversed(range(len(found))):
        if place in reached:
            reached |= {value.layer for value in found[place].inputs if value.requires_grad and value.layer is not None}
        else:
            found[place] = replace(found[place], frozen=True, trained=0)
    return tuple(found)


def _with_gradients(layer: Layer, step: Step) -> Layer:
    if layer.params:  # else it has no formula here
        layer = replace(layer, shared=step.shared, trained=step.trained, frozen=not step.weight_is_trained)
    if step.gradients is None:
        return layer
    pairs = zip(layer.inputs, step.gradients, strict=False)
    inputs = tuple(replace(value, requires_grad=needed) for value, needed in pairs)
    output = replace(layer.output, requires_grad=any(step.gradients) or layer.trains)
    return replace(layer, inputs=inputs, output=output)


def _op(step: Step, inputs: list[Value]) -> Op:
    kind = getattr(layers, step.op, None)
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in step.settings.items()}
    if isinstance(kind, type) and (issubclass(kind, Joining) or "others" in getattr(kind, "__dataclass_fields__", {})):
        settings["others"] = tuple(inputs[1:])
    try:
        op = kind(**settings) if isinstance(kind, type) else None
    except TypeError:
        op = None
    if not isinstance(op, Op):
        raise WorkerError(f"{step.name}: expected a layer of cnnbench.networks; got {step.op} with {step.settings}")
    dropped_axes = len(inputs[0].shape) - len(step.shape) if step.op == "AdaptiveAvgPool" else 0  # a mean over them
    if op.output_shape(inputs[0].shape) != (*step.shape, *(1,) * dropped_axes):
        return Opaque(tuple(inputs[1:]), step.shape, f"{step.op} of {spelled(inputs[0].shape)}")
    return op


def _uncounted(network: Network) -> list[str]:
    """Operations without a formula, by name, with where they first stand."""
    opaque = [(layer.op.function, layer.name) for layer in network.layers if isinstance(layer.op, Opaque)]
    first = dict(reversed(opaque))
    counts = Counter(function for function, _ in opaque)
    return [f"{count} x {function} (first in {first[function]})" for function, count in counts.items()]


def _unowned(network: Network, params: Mapping[str, int]) -> list[str]:
    """Parameters that no counted layer has, and those of another layer."""
    counted = {layer.name: layer.params - layer.shared for layer in network.layers if layer.params}
    lines = [
        f"{layer.shared:,} parameters of {layer.name}, which are those of a layer before it"
        for layer in network.layers
        if layer.shared
    ]
    for name in {**params, **counted}:
        missing = params.get(name, 0) - counted.get(name, 0)
        if missing > 0:
            lines.append(f"{missing:,} parameters of {name or 'the module itself'}, which no counted layer has")
        elif missing < 0:
            lines.append(f"{name}: its {-missing:,} parameters are those of another layer, counted again")
    return lines

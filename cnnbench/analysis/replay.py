"""The layers of a model that has no closed form, from what was traced as it ran, with the same formulas."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from cnnbench.errors import WorkerError
from cnnbench.networks import layers
from cnnbench.networks.layers import Joining, Op, Opaque, Value, spelled
from cnnbench.networks.network import Net, Network
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
    return Reading(network, _uncounted(network) + _unowned(network, traced.params))


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
    """Parameters that no counted layer has, and those that a layer which is passed again counts again."""
    counted = {layer.name: layer.params for layer in network.layers if layer.params}
    lines = []
    for name in {**params, **counted}:
        missing = params.get(name, 0) - counted.get(name, 0)
        if missing > 0:
            lines.append(f"{missing:,} parameters of {name or 'the module itself'}, which no counted layer has")
        elif missing < 0:
            lines.append(f"{name}: its {-missing:,} parameters are those of another layer, counted again")
    return lines

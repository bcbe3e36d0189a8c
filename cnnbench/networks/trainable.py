"""Which part of a network is trained: all of it, its head, or all from a module on in the order of execution."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import replace

from cnnbench.errors import InputError
from cnnbench.networks.network import Layer, Network

ALL, HEAD, FROM = "all", "head", "from:"
NORM_TRAINS = "/norm:train"
"""Behind a part: batch normalisation of what is frozen runs in training mode; without it, in evaluation mode."""
_PART = re.compile(r"all|(head|from:[\w.]+)(/norm:train)?")


def check_part(part: str) -> str:
    """The part itself, if it has the form of one: `all`, `head`, `from:layer3`, `head/norm:train`. Raises ValueError.

    Whether there is such a module is known where the model is.
    """
    if not _PART.fullmatch(part):
        raise ValueError(f"expected all, head, or from: and a module's name, such as from:layer3; got {part!r}")
    return part


def with_norm(part: str, mode: str) -> str:
    """The part with the mode, `eval` or `train`, of batch normalisation in what is frozen."""
    return part if part == ALL or mode == "eval" else part + NORM_TRAINS


def norm_trains(part: str) -> bool:
    """Whether batch normalisation of what is frozen runs in training mode."""
    return part.endswith(NORM_TRAINS)


def first_trained(model: str, order: Sequence[str], head: str | None, part: str) -> str:
    """The first module that is trained, of those with parameters in the order of execution.

    `head` is None where it is not certain. Raises InputError for a head that is not certain, and for a name that no
    module has.
    """
    tops = list(dict.fromkeys(name.partition(".")[0] for name in order if name))
    place = f"{model}: trainable"
    part = part.removesuffix(NORM_TRAINS)
    if part == HEAD:
        if head is None:
            raise InputError(
                f"{place}: which module is the head is not certain, because its output does not come from a single "
                f"last module with parameters; write from:NAME, such as one of {', '.join(tops)}"
            )
        return head
    name = part.removeprefix(FROM)
    found = next((each for each in order if part == ALL or each == name or each.startswith(f"{name}.")), None)
    if found is None:
        near = difflib.get_close_matches(name, [*tops, *order], n=1, cutoff=0.5)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(
            f"{place}: expected from: and a module with parameters, one of {', '.join(tops)}, or one inside them; "
            f"got {name!r}{hint}"
        )
    return found


def order_of(network: Network) -> list[str]:
    """The layers with parameters, in the order of execution."""
    return [layer.name for layer in network.layers if layer.params]


def head_of(network: Network) -> str | None:
    """The last layer with parameters on the way to the output, the main one of several.

    None where one of the outputs has several such layers, or none.
    """
    used = {value.layer for layer in network.inference for value in layer.inputs}
    ends = [i for i, layer in enumerate(network.layers) if not layer.training_only and i not in used]
    heads = [_last_trained(network, end) for end in ends]
    return heads[0].pop() if all(len(each) == 1 for each in heads) else None


def _last_trained(network: Network, end: int) -> set[str]:
    """The layers with parameters behind which there is none on a way to the layer at `end`."""
    waiting, last = [end], set()
    while waiting:
        layer = network.layers[waiting.pop()]
        if layer.params:
            last.add(layer.name)
        else:
            waiting += [value.layer for value in layer.inputs if value.layer is not None]
    return last


def freeze(network: Network, part: str) -> Network:
    """The network with what is not trained frozen, as training's closed forms take it. Raises InputError."""
    if part == ALL:
        return network
    first = first_trained(network.name, order_of(network), head_of(network), part)
    start = next(index for index, layer in enumerate(network.layers) if layer.name == first)
    layers: list[Layer] = []
    for index, layer in enumerate(network.layers):
        inputs = tuple(
            replace(
                value,
                requires_grad=value.requires_grad
                and value.layer is not None
                and layers[value.layer].output.requires_grad,
            )
            for value in layer.inputs
        )
        if index < start:
            layer = replace(layer, frozen=True, trained=0)
        requires_grad = any(value.requires_grad for value in inputs) or layer.trains
        layers.append(replace(layer, inputs=inputs, output=replace(layer.output, requires_grad=requires_grad)))
    return replace(network, layers=tuple(layers))

"""The memory of one training step, in closed form: what is alive at each layer, forwards and backwards.

Tensors alone are counted, in float32, with gradients set to none after each update. The scratch memory of convolution
libraries, which may pad channels or reorder weights, comes on top.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from cnnbench.networks.layers import BatchNorm, Value
from cnnbench.networks.network import Layer, Network
from cnnbench.networks.training_cost import check_trainable, saved_bytes, saved_storages
from cnnbench.networks.units import FLOAT_BYTES, INDEX_BYTES

Optimizer = Literal["sgd", "momentum", "adam"]

STATE_PER_WEIGHT: dict[Optimizer, int] = {"sgd": 0, "momentum": 1, "adam": 2}
"""Values that an optimiser keeps for each weight: none; a running gradient; that and a running square (Kingma & Ba
2015, algorithm 1)."""
SCRATCH_PER_WEIGHT: dict[Optimizer, int] = {"sgd": 0, "momentum": 0, "adam": 2}
"""Values that its step holds for a moment, for each weight of the one parameter that it is at."""

IMAGES = 0
"""The number of the memory that the images lie in, which the caller holds."""


@dataclass(frozen=True, kw_only=True)
class StepMemory:
    """Bytes of one training step in float32, of a batch."""

    weights: int
    buffers: int
    """Running statistics."""
    gradients: int
    optimizer_state: int
    saved: int
    """Kept for the backward pass, the images included."""
    peak: int
    """The most that is alive at any moment: not their sum, because gradients grow while what was saved is freed."""


def step_memory(network: Network, batch: int, optimizer: Optimizer) -> StepMemory:
    """What a training step of `batch` images holds. Raises ShapeError where the network cannot be trained."""
    weights = network.weight_bytes
    buffers = sum(
        2 * layer.input_shape[0] * FLOAT_BYTES + INDEX_BYTES
        for layer in network.layers
        if isinstance(layer.op, BatchNorm)
    )
    state = STATE_PER_WEIGHT[optimizer] * weights
    largest = max((layer.weight_bytes for layer in network.layers), default=0)
    held = weights + buffers + state
    passes = max(_Step(network, batch).live())
    update = batch * network.storage_bytes(IMAGES) + weights + SCRATCH_PER_WEIGHT[optimizer] * largest
    return StepMemory(
        weights=weights,
        buffers=buffers,
        gradients=weights,
        optimizer_state=state,
        saved=saved_bytes(network, batch),
        peak=held + max(passes, update),
    )


class _Step:
    """What is alive at each layer of a forward and a backward pass, beside weights and optimiser."""

    def __init__(self, network: Network, batch: int) -> None:
        check_trainable(network)
        self.network, self.batch, self.layers = network, batch, network.layers
        self.kept_by: dict[int, set[int]] = {}
        """By piece of memory, the places of the layers whose backward pass needs it."""
        self.last_use: dict[int, int] = {}
        for place, layer in enumerate(self.layers):
            for value in layer.inputs:
                self.last_use[value.storage] = place
            for storage in saved_storages(layer):
                self.kept_by.setdefault(storage, set()).add(place)

    def live(self) -> list[int]:
        """Bytes alive at each moment: layer by layer forwards, then backwards."""
        extras = list(accumulate(self._extras(layer) for layer in self.layers))
        return [*self._forward(extras), *self._backward(extras)]

    def _forward(self, extras: list[int]) -> Iterator[int]:
        """At each layer: the images, what is kept so far, what is still to be used, and what the layer puts out."""
        alive = {IMAGES: self._bytes(IMAGES)}
        for place, layer in enumerate(self.layers):
            alive.setdefault(layer.output.storage, self._bytes(layer.output.storage))
            yield sum(alive.values()) + extras[place]
            for storage in alive.keys() - self.kept_by.keys() - {IMAGES}:
                if self.last_use.get(storage, len(self.layers)) <= place:
                    del alive[storage]

    def _backward(self, extras: list[int]) -> Iterator[int]:
        """At each layer: the images, what is still kept, gradients of weights so far and of values on their way."""
        alive = {storage: self._bytes(storage) for storage in {IMAGES, *self.kept_by}}
        gradients = _Gradients(self.batch)
        learned = 0
        for place, layer in reversed(list(enumerate(self.layers))):
            learned += layer.weight_bytes
            gradients.pass_through(place, layer)
            yield sum(alive.values()) + extras[place] + learned + gradients.bytes
            gradients.settle(place, layer)
            for storage in saved_storages(layer):
                self.kept_by[storage].remove(place)
                if not self.kept_by[storage] and storage != IMAGES:
                    del alive[storage]

    def _extras(self, layer: Layer) -> int:
        """Indices, noise, copies and statistics that are kept for a layer."""
        if not layer.output.requires_grad:
            return 0
        saved = layer.op.saved(layer.input_shape)
        return saved.bytes_per_batch + self.batch * saved.bytes_per_image

    def _bytes(self, storage: int) -> int:
        return self.batch * self.network.storage_bytes(storage)


class _Gradients:
    """The gradients of values, from the layers that use them on their way to the layers that made them."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.tensors: dict[int | None, set[int]] = {}
        """By the place of the layer that made a value: the tensors that its gradient is in."""
        self.sizes: list[int] = []

    @property
    def bytes(self) -> int:
        """Of all tensors that are alive."""
        return sum(self.sizes[tensor] for tensor in set().union(*self.tensors.values()))

    def pass_through(self, place: int, layer: Layer) -> None:
        """From a layer's output to its inputs: in new tensors, unless it hands on what it got."""
        for value in layer.inputs:
            if value.requires_grad:
                handed_on = self.tensors.get(place) if layer.op.hands_gradient_on else None
                self.tensors.setdefault(value.layer, set()).update(handed_on or {self._new(value)})

    def settle(self, place: int, layer: Layer) -> None:
        """The output's gradient is done with; what reached an input from several sides is added up in one tensor."""
        self.tensors.pop(place, None)
        for value in layer.inputs:
            if len(self.tensors.get(value.layer, ())) > 1:
                self.tensors[value.layer] = {self._new(value)}

    def _new(self, value: Value) -> int:
        self.sizes.append(self.batch * value.bytes)
        return len(self.sizes) - 1

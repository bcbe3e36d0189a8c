"""The memory of one training step in closed form: live tensors at each layer, forwards and backwards.

Only tensors are counted, in float32, with gradients set to none after each update. The workspaces of convolution
libraries, which may pad channels or reorder weights, come on top.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from cnnbench.networks.layers import BatchNorm, Value
from cnnbench.networks.network import Layer, Network
from cnnbench.networks.training_cost import check_trainable, saved_bytes, saved_extras, saved_storages
from cnnbench.networks.units import FLOAT_BYTES, INDEX_BYTES

Optimizer = Literal["sgd", "momentum", "adam"]

STATE_PER_WEIGHT: dict[Optimizer, int] = {"sgd": 0, "momentum": 1, "adam": 2}
"""Values that an optimizer keeps for each weight: none; a running gradient; that and a running square (Kingma & Ba
2015, algorithm 1)."""
SCRATCH_PER_WEIGHT: dict[Optimizer, int] = {"sgd": 0, "momentum": 0, "adam": 2}
"""Temporary values of its update, for each weight of the parameter being updated."""

IMAGES = 0
"""The storage of the images, which the caller keeps alive."""


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
    """The most alive at any moment. Not the sum of the above: gradients grow while saved values are freed."""


def step_memory(network: Network, batch: int, optimizer: Optimizer) -> StepMemory:
    """Of a training step with `batch` images. Raises ShapeError where the network cannot be trained."""
    weights = network.weight_bytes
    buffers = sum(
        2 * layer.input_shape[0] * FLOAT_BYTES + INDEX_BYTES
        for layer in network.layers
        if isinstance(layer.op, BatchNorm)
    )
    state = STATE_PER_WEIGHT[optimizer] * weights
    largest = max((layer.weight_bytes for layer in network.layers), default=0)
    held = weights + buffers + state
    passes = max(_Step(network, batch).live_bytes())
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
    """Live memory at each layer of a forward and a backward pass, besides weights and optimizer state."""

    def __init__(self, network: Network, batch: int) -> None:
        check_trainable(network)
        self.network, self.batch, self.layers = network, batch, network.layers
        self.extras = list(accumulate(saved_extras(layer, batch) for layer in self.layers))
        self.kept_by: dict[int, set[int]] = {}
        """By storage, the indices of the layers whose backward pass needs it."""
        self.last_use: dict[int, int] = {}
        for index, layer in enumerate(self.layers):
            self.last_use |= {value.storage: index for value in layer.inputs}
            for storage in saved_storages(layer):
                self.kept_by.setdefault(storage, set()).add(index)

    def live_bytes(self) -> list[int]:
        """Layer by layer forwards, then backwards."""
        return [*self._forward(), *self._backward()]

    def _forward(self) -> Iterator[int]:
        """At each layer: the images, saved values so far, values still to be used, and the layer's output."""
        alive = {IMAGES: self._bytes(IMAGES)}
        for index, layer in enumerate(self.layers):
            alive.setdefault(layer.output.storage, self._bytes(layer.output.storage))
            yield sum(alive.values()) + self.extras[index]
            for storage in alive.keys() - self.kept_by.keys() - {IMAGES}:
                if self.last_use.get(storage, len(self.layers)) <= index:
                    del alive[storage]

    def _backward(self) -> Iterator[int]:
        """At each layer: the images, values still saved, weight gradients so far, and gradients of values in flight."""
        alive = {storage: self._bytes(storage) for storage in {IMAGES, *self.kept_by}}
        gradients = _Gradients(self.batch)
        weight_gradients = 0
        for index, layer in reversed(list(enumerate(self.layers))):
            weight_gradients += layer.weight_bytes
            gradients.propagate(index, layer)
            yield sum(alive.values()) + self.extras[index] + weight_gradients + gradients.bytes
            gradients.accumulate(index, layer)
            for storage in saved_storages(layer):
                self.kept_by[storage].remove(index)
                if not self.kept_by[storage] and storage != IMAGES:
                    del alive[storage]

    def _bytes(self, storage: int) -> int:
        return self.batch * self.network.storage_bytes(storage)


class _Gradients:
    """Gradients of values in flight, from the layers that use a value to the layer that computed it."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.tensors: dict[int | None, set[int]] = {}
        """By the index of the layer that computed a value: the tensors that hold its gradient."""
        self.sizes: list[int] = []

    @property
    def bytes(self) -> int:
        """Of all live tensors."""
        return sum(self.sizes[tensor] for tensor in set().union(*self.tensors.values()))

    def propagate(self, index: int, layer: Layer) -> None:
        """From a layer's output to its inputs, in new tensors unless the layer hands its output's gradient on."""
        for value in layer.inputs:
            if value.requires_grad:
                handed_on = self.tensors.get(index) if layer.op.hands_gradient_on else None
                self.tensors.setdefault(value.layer, set()).update(handed_on or {self._new(value)})

    def accumulate(self, index: int, layer: Layer) -> None:
        """Free the output's gradient; sum the gradients that an input has from several layers into one tensor."""
        self.tensors.pop(index, None)
        for value in layer.inputs:
            if len(self.tensors.get(value.layer, ())) > 1:
                self.tensors[value.layer] = {self._new(value)}

    def _new(self, value: Value) -> int:
        self.sizes.append(self.batch * value.bytes)
        return len(self.sizes) - 1

"""The cost of training in closed form: arithmetic, the memory that autograd keeps, and the live tensors of a step.

The arithmetic is that of reverse-mode differentiation: a layer with y = W x computes the input's gradient W' dy with as
many multiplications as its forward pass, and the weights' gradient dy x' with as many again. Memory is of tensors only,
in float32, with gradients set to none after each update; the workspaces of convolution libraries, which may pad
channels or reorder weights, come on top, and what the loss holds: about twice the logits, which are large where they
are of each pixel.

Of a network that is frozen in part (`trainable.freeze`) they are those of the rest: no gradient goes below the first
layer that is trained, and nothing is kept there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from cnnbench.errors import ShapeError
from cnnbench.networks.layers import BatchNorm, Value
from cnnbench.networks.network import Layer, Network
from cnnbench.networks.units import FLOAT_BYTES, INDEX_BYTES

Optimizer = Literal["sgd", "momentum", "adam"]

STATE_PER_WEIGHT: dict[Optimizer, int] = {"sgd": 0, "momentum": 1, "adam": 2}
"""Values that an optimizer keeps for each weight: none; a running gradient; that and a running square (Kingma & Ba
2015, algorithm 1)."""
SCRATCH_PER_WEIGHT: dict[Optimizer, int] = {"sgd": 0, "momentum": 0, "adam": 2}
"""Temporary values of its update, for each weight of the parameter being updated."""

TRAINING_FACTOR = 3
"""A step is about so many forward passes: its own, and one for each of the two gradients."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Multiply-accumulates of one training step for one image. FLOP are twice as many."""

    forward: int
    input_gradient: int
    """Of every layer, including the first one's, which training does not need."""
    first_input_gradient: int
    """The part with respect to the images and to what is frozen, which training does not compute."""
    weight_gradient: int

    @property
    def total(self) -> int:
        """Of one training step."""
        return self.forward + self.input_gradient - self.first_input_gradient + self.weight_gradient


def input_gradient_macs(layer: Layer) -> int:
    """As many as the forward pass for each input: two for a product of activations."""
    return layer.macs * len(layer.inputs)


def weight_gradient_macs(layer: Layer) -> int:
    """As many as the forward pass, if the layer has weights that are trained."""
    return layer.macs if layer.trains_weight else 0


def backward_macs(layer: Layer) -> int:
    """Of a layer's backward pass for one image, without activation gradients that no weight needs."""
    inputs = sum(value.requires_grad for value in layer.inputs)
    return layer.macs * inputs + weight_gradient_macs(layer)


def work(network: Network) -> Work:
    """Multiply-accumulates of one training step for one image. Raises ShapeError where it cannot be trained."""
    check_trainable(network)
    return Work(
        forward=sum(layer.macs for layer in network.layers),
        input_gradient=sum(map(input_gradient_macs, network.layers)),
        first_input_gradient=sum(
            layer.macs for layer in network.layers for value in layer.inputs if not value.requires_grad
        ),
        weight_gradient=sum(map(weight_gradient_macs, network.layers)),
    )


def saving(network: Network, whole: Network) -> float:
    """How many times as fast the step of a network that is frozen in part would be as that of the whole, by MACs."""
    return work(whole).total / work(network).total


def saved_bytes(network: Network, batch: int) -> int:
    """Bytes that PyTorch's autograd keeps from a forward pass of `batch` images until the backward pass.

    Parameters and buffers do not count. Raises ShapeError where the network cannot be trained.
    """
    return sum(saved_by_layer(network, batch).values())


def saved_by_layer(network: Network, batch: int) -> dict[str, int]:
    """The same by layer; shared memory counts at the first layer that keeps it."""
    check_trainable(network)
    kept: set[int] = set()
    by_layer = {}
    for layer in network.layers:
        new = saved_storages(layer) - kept
        kept |= new
        by_layer[layer.name] = saved_extras(layer, batch) + batch * sum(map(network.storage_bytes, new))
    return by_layer


def saved_storages(layer: Layer) -> set[int]:
    """The storages of inputs and output that are kept for a layer's backward pass."""
    saved, (first, *others) = layer.saved, layer.inputs
    values = [first] * saved.input + [layer.output] * saved.output + others * saved.others
    return {value.storage for value in values}


def saved_extras(layer: Layer, batch: int) -> int:
    """Bytes kept besides inputs and output: indices, random factors, copies and statistics."""
    return layer.saved.bytes_per_batch + batch * layer.saved.bytes_per_image


def check_trainable(network: Network) -> None:
    """Raises ShapeError where the image is too small for an auxiliary head, which only training runs."""
    if network.training_problem:
        raise ShapeError(f"{network.training_problem}: the image is large enough for inference, but not for training")


@dataclass(frozen=True, kw_only=True)
class StepMemory:
    """Bytes of one training step in float32, of a batch."""

    weights: int
    buffers: int
    """Running statistics."""
    gradients: int
    optimizer_state: int
    saved: int
    """Kept for the backward pass, the inputs that it needs included."""
    peak: int
    """The most alive at any moment. Not the sum of the above: gradients grow while saved values are freed."""


def step_memory(network: Network, batch: int, optimizer: Optimizer) -> StepMemory:
    """Of a training step with `batch` images. Raises ShapeError where the network cannot be trained."""
    saved, weights = saved_bytes(network, batch), network.weight_bytes
    gradients = network.trained_params * FLOAT_BYTES
    buffers = sum(
        2 * layer.input_shape[0] * FLOAT_BYTES + INDEX_BYTES
        for layer in network.layers
        if isinstance(layer.op, BatchNorm)
    )
    state = STATE_PER_WEIGHT[optimizer] * gradients
    largest = max((layer.trained_params * FLOAT_BYTES for layer in network.layers), default=0)
    held = weights + buffers + state
    step = _Step(network, batch)
    passes = max(*step.forward(), *step.backward())
    inputs = batch * sum(map(network.storage_bytes, network.input_storages))
    update = inputs + gradients + SCRATCH_PER_WEIGHT[optimizer] * largest
    return StepMemory(
        weights=weights,
        buffers=buffers,
        gradients=gradients,
        optimizer_state=state,
        saved=saved,
        peak=held + max(passes, update),
    )


def clipping_bytes(network: Network) -> int:
    """Bytes that clipping gradients by their global norm moves: each is read for the norm, then read and written."""
    return 3 * network.trained_params * FLOAT_BYTES


class _Step:
    """Live memory at each layer of a forward and a backward pass, besides weights and optimizer state."""

    def __init__(self, network: Network, batch: int) -> None:
        self.network, self.batch, self.layers, self.inputs = network, batch, network.layers, network.input_storages
        self.extras = list(accumulate(saved_extras(layer, batch) for layer in self.layers))
        self.kept_by: dict[int, set[int]] = {}
        """By storage, the indices of the layers whose backward pass needs it."""
        self.last_use: dict[int, int] = {}
        for index, layer in enumerate(self.layers):
            self.last_use |= {value.storage: index for value in layer.inputs}
            for storage in saved_storages(layer):
                self.kept_by.setdefault(storage, set()).add(index)

    def forward(self) -> Iterator[int]:
        """At each layer: the inputs, saved values so far, values still to be used, and the layer's output."""
        alive = {storage: self._bytes(storage) for storage in self.inputs}
        for index, layer in enumerate(self.layers):
            alive.setdefault(layer.output.storage, self._bytes(layer.output.storage))
            yield sum(alive.values()) + self.extras[index]
            for storage in alive.keys() - self.kept_by.keys() - {*self.inputs}:
                if self.last_use.get(storage, len(self.layers)) <= index:
                    del alive[storage]

    def backward(self) -> Iterator[int]:
        """At each layer: the inputs, values still saved, weight gradients so far, and activation gradients.

        A layer's gradients go into new tensors, one for each input, unless it hands its output's on; the gradients that
        a value has from several layers are then summed into one tensor.
        """
        alive = {storage: self._bytes(storage) for storage in {*self.inputs, *self.kept_by}}
        tensors: list[int] = []
        """The bytes of each gradient."""
        in_flight: dict[int | None, set[int]] = {}
        """By the index of the layer that computed a value: the tensors that hold its gradient."""

        def new(value: Value) -> set[int]:
            tensors.append(self.batch * value.bytes)
            return {len(tensors) - 1}

        weight_gradients = 0
        for index, layer in reversed(list(enumerate(self.layers))):
            weight_gradients += layer.trained_params * FLOAT_BYTES
            for value in layer.inputs:
                if value.requires_grad:
                    handed_on = in_flight.get(index) if layer.op.hands_gradient_on else None
                    in_flight.setdefault(value.layer, set()).update(handed_on or new(value))
            gradients = sum(tensors[place] for place in set().union(*in_flight.values()))
            yield sum(alive.values()) + self.extras[index] + weight_gradients + gradients
            in_flight.pop(index, None)
            for value in layer.inputs:
                if len(in_flight.get(value.layer, ())) > 1:
                    in_flight[value.layer] = new(value)
            for storage in saved_storages(layer):
                self.kept_by[storage].remove(index)
                if not self.kept_by[storage] and storage not in self.inputs:
                    del alive[storage]

    def _bytes(self, storage: int) -> int:
        return self.batch * self.network.storage_bytes(storage)

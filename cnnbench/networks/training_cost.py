"""The cost of training in closed form: arithmetic, and the memory that autograd keeps.

The arithmetic is that of reverse-mode differentiation: a layer with y = W x computes the input's gradient W' dy with as
many multiplications as its forward pass, and the weights' gradient dy x' with as many again.
"""

from dataclasses import dataclass

from cnnbench.errors import ShapeError
from cnnbench.networks.network import Layer, Network


@dataclass(frozen=True, kw_only=True)
class Work:
    """Multiply-accumulates of one training step for one image. FLOP are twice as many."""

    forward: int
    input_gradient: int
    """Of every layer, including the first one's, which training does not need."""
    first_input_gradient: int
    """The part with respect to the images, which training does not compute."""
    weight_gradient: int

    @property
    def total(self) -> int:
        """Of one training step."""
        return self.forward + self.input_gradient - self.first_input_gradient + self.weight_gradient


def input_gradient_macs(layer: Layer) -> int:
    """As many as the forward pass for each input: two for a product of activations."""
    return layer.macs * len(layer.inputs)


def weight_gradient_macs(layer: Layer) -> int:
    """As many as the forward pass, if the layer has weights."""
    return layer.macs if layer.params else 0


def backward_macs(layer: Layer) -> int:
    """Of a layer's backward pass for one image, without gradients of values that depend on no weight."""
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
    if not layer.output.requires_grad:
        return set()
    saved = layer.op.saved(layer.input_shape)
    first, *others = layer.inputs
    values = [first] * saved.input + [layer.output] * saved.output + others * saved.others
    return {value.storage for value in values}


def saved_extras(layer: Layer, batch: int) -> int:
    """Bytes kept besides inputs and output: indices, random factors, copies and statistics."""
    saved = layer.op.saved(layer.input_shape)
    return saved.bytes_per_batch + batch * saved.bytes_per_image if layer.output.requires_grad else 0


def check_trainable(network: Network) -> None:
    """Raises ShapeError where the image is too small for an auxiliary head, which only training runs."""
    if network.training_problem:
        raise ShapeError(f"{network.training_problem}: the image is large enough for inference, but not for training")

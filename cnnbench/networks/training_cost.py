"""What training costs, in closed form: arithmetic, and what autograd keeps.

The arithmetic is that of reverse-mode differentiation: a layer with y = W x passes on W' dy (as many multiplications as
its forward pass) and learns from dy x' (as many again). What is kept follows PyTorch's autograd.
"""

from dataclasses import dataclass

from cnnbench.errors import ShapeError
from cnnbench.networks.network import Layer, Network


@dataclass(frozen=True, kw_only=True)
class Work:
    """Multiply-accumulates of one training step for one image. FLOP are twice as many."""

    forward: int
    input_gradient: int
    """Of every layer, the first one's included, though training does not need it."""
    first_input_gradient: int
    """The part of it that nobody asks for: gradients with respect to the images."""
    weight_gradient: int

    @property
    def total(self) -> int:
        """What a training step computes."""
        return self.forward + self.input_gradient - self.first_input_gradient + self.weight_gradient


def forward_macs(layer: Layer) -> int:
    """Multiply-accumulates of a layer's forward pass in training, for one image."""
    return layer.macs


def input_gradient_macs(layer: Layer) -> int:
    """As many as forward for the input; for a product of two activations, as many again for the second."""
    return layer.macs * len(layer.inputs)


def weight_gradient_macs(layer: Layer) -> int:
    """As many as forward, where there are weights."""
    return layer.macs if layer.params else 0


def backward_macs(layer: Layer) -> int:
    """What the backward pass really computes for one image: no gradient of what no weight had a part in."""
    inputs = sum(value.requires_grad for value in layer.inputs)
    return layer.macs * inputs + weight_gradient_macs(layer)


def work(network: Network) -> Work:
    """Multiply-accumulates of one training step for one image. Raises ShapeError where it cannot be trained."""
    check_trainable(network)
    return Work(
        forward=sum(map(forward_macs, network.layers)),
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
    """The same by layer: each piece of memory counts where it is first kept."""
    check_trainable(network)
    kept: set[int] = set()
    by_layer = {}
    for layer in network.layers:
        saved = layer.op.saved(layer.input_shape) if layer.output.requires_grad else None
        count = saved.bytes_per_batch + batch * saved.bytes_per_image if saved else 0
        for storage in saved_storages(layer):
            if storage not in kept:
                kept.add(storage)
                count += batch * network.storage_bytes(storage)
        by_layer[layer.name] = count
    return by_layer


def saved_storages(layer: Layer) -> set[int]:
    """The pieces of memory that are kept for a layer's backward pass."""
    if not layer.output.requires_grad:
        return set()
    saved = layer.op.saved(layer.input_shape)
    first, *others = layer.inputs
    values = [first] * saved.input + [layer.output] * saved.output + others * saved.others
    return {value.storage for value in values}


def check_trainable(network: Network) -> None:
    """Raises ShapeError where an auxiliary head, passed in training alone, has too small an image."""
    if network.training_problem:
        raise ShapeError(f"{network.training_problem}: the image is large enough for inference, but not for training")

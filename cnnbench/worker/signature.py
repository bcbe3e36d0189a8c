"""What a module takes and puts out. The shape of an input is given, known from an example, or found by trying."""

import contextlib
import inspect
from collections.abc import Mapping
from dataclasses import is_dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from cnnbench.errors import ModelError
from cnnbench.suite.case import ModelSpec
from cnnbench.worker.hooks import hooked

Shape = tuple[int, ...]
"""Of one input, without the batch: (C, H, W) of an image, (C, L) of a signal, (C, D, H, W) of a volume."""
Inputs = Shape | Mapping[str, Shape]
"""The shape of the one input, or of each by its name."""
DEFAULT_SIZES: Mapping[int, Shape] = {1: (1024,), 2: (224, 224)}
"""By the number of spatial axes. Volumes have no usual size."""
MAX_TRIED = 64
"""Channels that are tried, beside those of every convolution."""
CONVOLUTIONS = nn.modules.conv._ConvNd
LAZY = nn.modules.lazy.LazyModuleMixin


def shapes_of(inputs: Inputs) -> list[Shape]:
    """The shape of each input, in order."""
    return list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]


def zeros(inputs: Inputs, batch: int = 1) -> tuple[Tensor, ...]:
    """A tensor (batch, ...) of zeros for each input."""
    return tuple(torch.zeros(batch, *shape) for shape in shapes_of(inputs))


def flat(output: Any) -> list[Tensor]:
    """The tensors in a module's output, in order, of whatever nest of tuples, lists, mappings and dataclasses it is."""
    is_known = type(output) in torch.utils._pytree.SUPPORTED_NODES
    if is_dataclass(output) and not is_known and not isinstance(output, (type, Mapping)):
        with contextlib.suppress(ValueError):  # it is known to another part of torch
            torch.export.register_dataclass(type(output))
    return [each for each in torch.utils._pytree.tree_leaves(output) if isinstance(each, Tensor)]


def find_inputs(module: nn.Module, spec: ModelSpec, maker: Any) -> Inputs:
    """The inputs of a user's module, which `maker` has made.

    They are the spec's; else those of `example_inputs()` of the maker or the module; else, for one image or signal,
    its number of channels is the only one of many that the module accepts. Raises ModelError where they are not
    certain, with what to give.
    """
    if spec.inputs is not None:
        return _named(module, spec)
    if example := _example(module, maker, spec):
        return example
    needed = _needed(module)
    if len(needed) > 1:
        raise ModelError(
            f"model {spec.model!r}: its `forward` needs {', '.join(map(repr, needed))}; give the shape of each, such "
            f"as `inputs: {{{', '.join(f'{name}: [3, 224, 224]' for name in needed)}}}` in a suite or "
            f"{' '.join(f'--input {name}=3x224x224' for name in needed)}, or let its callable have `example_inputs()`"
        )
    size = _size(module, spec)
    if spec.channels:
        return (spec.channels, *size)
    return _found(module, spec, size)


def _needed(module: nn.Module) -> list[str]:
    """The parameters of its forward pass that have no default."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in _parameters(module) if p.kind in kinds and p.default is inspect.Parameter.empty]


def takes_any_number(module: nn.Module) -> bool:
    """Whether its forward pass is declared with `*inputs`, as that of a wrapper is."""
    return any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in _parameters(module)[:1])


def _parameters(module: nn.Module) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):  # a scripted module has no signature
        return []


def _named(module: nn.Module, spec: ModelSpec) -> Inputs:
    """The spec's inputs. Raises ModelError where the forward pass has others, or has them in another order."""
    assert spec.inputs is not None
    given, parameters = dict(spec.inputs), _parameters(module)
    names = [p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD]
    is_open = not parameters or any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
    if not is_open and (list(given) != names[: len(given)] or not set(_needed(module)) <= given.keys()):
        raise ModelError(
            f"model {spec.model!r}: expected inputs in the order of its `forward`, which takes {', '.join(names)}; got "
            f"{', '.join(given)}"
        )
    return given if len(given) > 1 else next(iter(given.values()))


def _example(module: nn.Module, maker: Any, spec: ModelSpec) -> Inputs | None:
    """The shapes of what `example_inputs()` gives: a tensor, several, or tensors by name, each with a batch of one."""
    make = getattr(module, "example_inputs", None) or getattr(maker, "example_inputs", None)
    if not callable(make):
        return None
    made = make()
    names = [p.name for p in _parameters(module)]
    if isinstance(made, Tensor):
        made = (made,)
    tensors = dict(made) if isinstance(made, Mapping) else dict(zip(names, made, strict=False))
    if not tensors or not all(isinstance(each, Tensor) and each.is_floating_point() for each in tensors.values()):
        kinds = ", ".join(str(getattr(each, "dtype", type(each).__name__)) for each in tensors.values()) or "none"
        raise ModelError(f"model {spec.model!r}: its `example_inputs()` must give floating-point tensors; got {kinds}")
    shapes = {name: tuple(tensor.shape[1:]) for name, tensor in tensors.items()}
    return shapes if len(shapes) > 1 else next(iter(shapes.values()))


def _size(module: nn.Module, spec: ModelSpec) -> Shape:
    """The spatial axes of its image or signal, as many as its convolutions have. Raises ModelError."""
    axes = {len(child.kernel_size) for child in module.modules() if isinstance(child, CONVOLUTIONS)} or {2}
    size = spec.image_size
    if len(axes) > 1:
        raise ModelError(
            f"model {spec.model!r} has convolutions over {' and '.join(map(str, sorted(axes)))} axes: give the shape "
            "of its input, such as `inputs: {x: [3, 224, 224]}` or --input x=3x224x224"
        )
    (count,) = axes
    usual = size if size is None or len(size) == count else size[:1] if count == 1 else None
    found = usual or (DEFAULT_SIZES.get(count) if size is None else None)
    if found is None:
        example = "x".join(["16", "112", "112"][-count:])
        raise ModelError(
            f"model {spec.model!r} has convolutions over {count} axes: expected an image size of as many sides, such "
            f"as `image_size: {example}` or --image-size {example}; got {'x'.join(map(str, size)) if size else 'none'}"
        )
    return found


def _found(module: nn.Module, spec: ModelSpec, size: Shape) -> Shape:
    """(C, ...) with the only number of channels of many that the module accepts. Raises ModelError.

    A network that turns pixels into channels, or normalises its images, does not have the images' channels in its first
    convolution; one that averages them accepts any.
    """
    tried = [(channels, *size) for channels in _candidates(module)]
    accepted = islice((image for image in tried if _accepts(module, image, spec)), 3)
    found = [*accepted] or tried[:1]  # where it accepts none, running it once more tells why
    if len(found) == 2 and _is_broadcast(module, *sorted(found)):
        return max(found)
    if len(found) > 1:
        raise ModelError(_unknown_channels(spec, f"it accepts {found[0][0]} as well as {found[1][0]}"))
    return found[0]


def _is_broadcast(module: nn.Module, grey: Shape, image: Shape) -> bool:
    """Whether a grey image is the same to it as one whose channels are all equal: it normalises each channel."""
    x = torch.rand(1, *grey, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = [flat(module.eval()(y.clone())) for y in (x, x.expand(1, *image))]
    return grey[0] == 1 and all(map(torch.equal, *outputs))


def _candidates(module: nn.Module) -> list[int]:
    """Numbers of channels to try: the first is the likeliest."""
    own = [child.in_channels for child in module.modules() if isinstance(child, CONVOLUTIONS)]
    return [channels for channels in dict.fromkeys([*own[:1], 3, 1, *own, *range(1, MAX_TRIED + 1)]) if channels]


def _accepts(module: nn.Module, image: Shape, spec: ModelSpec) -> bool:
    """Whether it runs. Raises ModelError where a lazy layer takes whatever comes first."""
    lazy: list[bool] = []

    def look(_: str, child: nn.Module, __: object) -> None:
        is_lazy = isinstance(child, LAZY) and child.has_uninitialized_params()
        if is_lazy or next(child.parameters(recurse=False), None) is not None:
            lazy.append(is_lazy)

    with hooked(module, before=look), torch.no_grad():
        try:
            module.eval()(*zeros(image))
        except Exception:
            return False
    if lazy and lazy[0]:
        raise ModelError(_unknown_channels(spec, "its first layer is lazy"))
    return True


def _unknown_channels(spec: ModelSpec, why: str) -> str:
    return (
        f"model {spec.model!r}: the number of channels of its images is not certain: {why}; give it, such as "
        "`channels: 3` in a suite or --channels 3"
    )

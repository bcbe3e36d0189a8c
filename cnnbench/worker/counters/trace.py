"""A module traced as it runs: every operation that torch dispatches for one image, named by the module it comes from.

Nothing that runs can be missed: an operation without a formula becomes an `Opaque` step, to be listed.
"""

import contextlib
import math
from collections.abc import Iterable, Sequence
from itertools import chain, count
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from cnnbench.records.messages import Step, Trace, Traced
from cnnbench.worker import models
from cnnbench.worker.counters.module import attention_as_products, parameters
from cnnbench.worker.detection import up_to_heads
from cnnbench.worker.hooks import is_leaf, running
from cnnbench.worker.signature import flat, zeros

WITH_WEIGHTS = {
    "Conv",
    "ConvTranspose",
    "DeformConv",
    "Linear",
    "BatchNorm",
    "LayerNorm",
    "GroupNorm",
    "InstanceNorm",
    "LayerScale",
}
FREE = {"empty", "zeros", "ones", "full", "arange", "new_zeros", "new_empty", "lift_fresh", "fill_", "zero_"}
FREE |= {"as_strided_", "empty_like"}
"""Operations that make something out of nothing, or only look at it in another way."""
COPIES = {"clone", "cat", "stack", "_unsafe_view", "constant_pad_nd", "roll", "index", "contiguous", "copy_"}
COPIES |= {"_to_copy", "pixel_shuffle", "pixel_unshuffle", "upsample_nearest1d", "upsample_nearest2d"}
"""Operations that only arrange values."""
FUNCTIONS = {"hardtanh": "relu6", "_softmax": "softmax", "_safe_softmax": "softmax", "hardswish": "hardswish"}
"""Functions of single values, or named by torch otherwise than by the layers, beside those that torch tags so."""

Described = tuple[str, dict[str, Any], Sequence[Tensor]]
"""A layer's kind, its settings, and the tensors that it takes: the one its formulas are of, then the others."""


def trace_model(request: Trace) -> Traced:
    """The trace of a model by its name, of a detection network up to its heads.

    Raises ModelError for one that cannot be built or run.
    """
    module, inputs = models.build(request.spec)
    models.try_out(module, inputs, request.spec)
    return trace(up_to_heads(module), *zeros(inputs))


def trace(module: nn.Module, *inputs: Tensor) -> Traced:
    """Every layer that one image (1, C, H, W), or one tensor for each input, passes in inference mode, in order."""
    with attention_as_products():
        steps, outputs = _steps(module, inputs, with_gradients=False)
        with contextlib.suppress(Exception):  # it may not run so, and then all that has parameters is trained
            again, _ = _steps(module, inputs, with_gradients=True)
            steps = again if list(map(_what, again)) == list(map(_what, steps)) else steps
    params = {name: params for name, (params, _) in parameters(module).items()}
    return Traced(inputs=[tuple(x.shape[1:]) for x in inputs], steps=steps, params=params, outputs=outputs)


def _steps(module: nn.Module, inputs: Sequence[Tensor], *, with_gradients: bool) -> tuple[list[Step], list[int]]:
    """The steps, and the places of those that computed an output."""
    with (
        running(module) as stack,
        torch.set_grad_enabled(with_gradients),
        _Tracer(module, inputs, stack, with_gradients) as tracer,
    ):
        made = flat(module.eval()(*inputs))
    places = [tracer.made_by.get(_memory(each), -1) for each in made]
    steps: list[Step] = tracer.steps
    return steps, [place for place in places if place >= 0]


def _what(step: Step) -> object:
    """What a step is, without what training makes of it."""
    return step.name, step.op, step.settings, step.inputs, step.shape


class _Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down each operation as it is dispatched."""

    def __init__(self, module: nn.Module, inputs: Sequence[Tensor], stack: Sequence[str], with_gradients: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stack, self.with_gradients = stack, with_gradients
        self.leaves = {name for name, child in module.named_modules() if is_leaf(child)}
        self.steps: list[Step] = []
        self.used: set[str] = set()
        state = module.state_dict(keep_vars=True)
        self.owners = {_memory(tensor): name.rpartition(".")[0] for name, tensor in reversed(state.items())}
        """By piece of memory of parameters and buffers, the submodule that holds them first."""
        self.parameters = {_memory(parameter): parameter.requires_grad for parameter in module.parameters()}
        """By piece of memory, whether training changes it."""
        self.had: set[tuple[int, int, int]] = set()
        """Parameters, or parts of them, that a step has had: memory, place and size."""
        self.with_parameters = {name.rpartition(".")[0] for name, _ in module.named_parameters()}
        self.made_by = {_memory(x): -place for place, x in enumerate(inputs, 1)}
        """By piece of memory, the place of the step that wrote it last; -1 is the first input, -2 the second."""
        self.alive: list[Tensor] = [*inputs]  # so that no memory is used twice

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        result = out[0] if isinstance(out, (tuple, list)) else out
        if isinstance(result, Tensor) and name not in FREE and not func.is_view:
            tensors = [each for each in _flat(args) if isinstance(each, Tensor)]
            if self.values(tensors):
                owner = next((self.owners[_memory(tensor)] for tensor in tensors if self.owns(tensor)), None)
                self._write(self._described(name, func, args, tensors, result), result, owner, tensors)
        return out

    def owns(self, tensor: Tensor) -> bool:
        """Whether it is a parameter or buffer of the module."""
        return _memory(tensor) in self.owners

    def values(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """Those that were computed from the image."""
        return [tensor for tensor in tensors if _memory(tensor) in self.made_by]

    def _write(self, described: Described, result: Tensor, owner: str | None, given: Sequence[Tensor]) -> None:
        kind, settings, tensors = described
        inputs = [(self.made_by.get(_memory(tensor), -1), _per_image(tensor)) for tensor in tensors]
        name = self._name(kind, settings, owner)
        self.made_by[_memory(result)] = len(self.steps)
        self.alive.append(result)
        step = Step(name=name, op=kind, settings=settings, inputs=inputs, shape=_per_image(result))
        self.steps.append(step.model_copy(update=self._trained(kind, tensors, given)))

    def _trained(self, kind: str, inputs: Sequence[Tensor], given: Sequence[Tensor]) -> dict[str, Any]:
        """What training makes of a step that is given these tensors, of which the inputs come from the image."""
        found: dict[str, Any] = {}
        goes_back = not self.with_gradients or torch.is_grad_enabled()
        if self.with_gradients:
            found["gradients"] = [goes_back and tensor.requires_grad for tensor in inputs]
        if kind not in WITH_WEIGHTS:
            return found
        own = [tensor for tensor in given if _memory(tensor) in self.parameters]
        new = [tensor for tensor in own if _part(tensor) not in self.had]
        self.had |= set(map(_part, own))
        trained = [tensor for tensor in new if goes_back and self.parameters[_memory(tensor)]]
        if own:
            weight = max(own, key=lambda tensor: tensor.numel())
            found["weight_is_trained"] = goes_back and self.parameters[_memory(weight)]
        elif self.with_gradients:  # it is computed from others
            values = self.values(given)
            found["weight_is_trained"] = goes_back and any(
                each.requires_grad for each in given if not any(each is value for value in values)
            )
        if len(own) > len(new):
            found["shared"] = sum(tensor.numel() for tensor in own) - sum(tensor.numel() for tensor in new)
        if own and (len(own) > len(new) or len(trained) < len(new)):
            found["trained"] = sum(tensor.numel() for tensor in trained)
        return found

    def _name(self, kind: str, settings: dict[str, Any], owner: str | None) -> str:
        """Where it has weights, the name of the module that holds them; else that of the module that is running.

        In a module that has children, or a second time, with the function's behind it.
        """
        running = self.stack[-1] if self.stack else ""
        if kind in WITH_WEIGHTS and owner is None and running in self.with_parameters:
            owner = running  # of which it has been given a copy
        has_weights = kind in WITH_WEIGHTS and owner is not None
        module = owner if has_weights and owner is not None else running
        function = str(settings.get("function", kind)).lower()
        is_its_own = has_weights or (module in self.leaves and module not in self.with_parameters)
        plain = module if is_its_own and module not in self.used else ""
        name = plain or ".".join(part for part in (module, function) if part)
        names = chain([name], (f"{name}_{number}" for number in count(2)))
        unique = next(each for each in names if each not in self.used)
        self.used.add(unique)
        return unique

    def _described(self, name: str, func: Any, args: Any, tensors: list[Tensor], result: Tensor) -> Described:
        described = self._formula(name.strip("_"), args)
        if described is None and name in COPIES:
            described = "Copy", {"to": _per_image(result)}, self.values(tensors)
        if described is None and (torch.Tag.pointwise in func.tags or name.rstrip("_") in FUNCTIONS):
            described = self._pointwise(name, tensors, result)
        return described or ("Opaque", {"function": name, "to": _per_image(result)}, self.values(tensors))

    def _formula(self, operator: str, args: Any) -> Described | None:
        """The layer that an ATen operator with these arguments is, where there is one with a formula for them."""
        match operator, args:
            case "convolution", (x, weight, bias, stride, padding, dilation, False, _, groups, *_) if x.shape[0] == 1:
                settings = {
                    "out_channels": weight.shape[0],
                    "kernel": tuple(weight.shape[2:]),
                    "stride": tuple(stride),
                    "padding": tuple(padding),
                    "dilation": tuple(dilation),
                    "groups": groups,
                    "bias": bias is not None,
                }
                return "Conv", settings, (x,)
            case "convolution", (x, weight, bias, stride, padding, dilation, True, extra, groups, *_) if (
                x.shape[0] == 1
            ):
                settings = {
                    "out_channels": weight.shape[1] * groups,
                    "kernel": tuple(weight.shape[2:]),
                    "stride": tuple(stride),
                    "padding": tuple(padding),
                    "dilation": tuple(dilation),
                    "output_padding": tuple(extra),
                    "groups": groups,
                    "bias": bias is not None,
                }
                return "ConvTranspose", settings, (x,)
            case "torchvision::deform_conv2d", (x, weight, offset, mask, bias, sh, sw, ph, pw, dh, dw, g, _, masked):
                settings = {
                    "out_channels": weight.shape[0],
                    "kernel": tuple(weight.shape[2:]),
                    "stride": (sh, sw),
                    "padding": (ph, pw),
                    "dilation": (dh, dw),
                    "groups": g,
                    "bias": bool(bias.any()) or bias.requires_grad,
                }
                return "DeformConv", settings, (x, offset, *([mask] if masked else []))
            case "addmm", (bias, x, weight) if self.owns(weight) and self.owns(bias):
                return "Linear", {"out_features": weight.shape[1], "bias": True}, (x,)
            case "mm", (x, weight) if self.owns(weight):
                return "Linear", {"out_features": weight.shape[1], "bias": False}, (x,)
            case "mm" | "bmm", (x, other):
                return "MatMul", {}, (x, other)
            case "native_batch_norm", (x, weight, _, _, _, uses_batch, *_):
                return "InstanceNorm" if uses_batch else "BatchNorm", {"affine": weight is not None}, (x,)
            case "native_layer_norm", (x, shape, weight, *_):
                return "LayerNorm", {"axes": len(shape), "affine": weight is not None}, (x,)
            case "native_group_norm", (x, weight, _, _, _, _, groups, *_):
                return "GroupNorm", {"groups": groups, "affine": weight is not None}, (x,)
            case "max_pool2d_with_indices", (x, kernel, *rest) if all(each == 1 for each in _flat(rest[2:3])):
                return "MaxPool", _pool(kernel, *rest[:2], *rest[3:]), (x,)  # without the dilation
            case "avg_pool2d", (x, kernel, *rest):
                return "AvgPool", _pool(kernel, *rest), (x,)
            case "adaptive_avg_pool2d", (x, size):
                return "AdaptiveAvgPool", {"size": tuple(size)}, (x,)
            case "mean", (x, axes, *_):
                spatial = set(range(2, x.ndim))
                is_global = x.shape[0] == 1 and spatial and {axis % x.ndim for axis in axes} == spatial
                return ("AdaptiveAvgPool", {"size": 1}, (x,)) if is_global else None
            case "upsample_linear1d" | "upsample_bilinear2d" | "upsample_trilinear3d", (x, size, *_) if x.shape[0] == 1:
                return "Resize", {"size": tuple(size)}, (x,)
            case "cat", (tensors, 1) if len(self.values(tensors)) == len(tensors):
                return ("Concat", {}, tensors) if tensors[0].shape[0] == 1 and tensors[0].ndim >= 3 else None
        return None

    def _pointwise(self, name: str, tensors: list[Tensor], result: Tensor) -> Described | None:
        function, inplace = name.rstrip("_"), name.endswith("_")
        values = self.values(tensors)
        whole = [value for value in values if value.shape == result.shape]
        if not whole:
            return None
        x, others = whole[0], [value for value in values if value is not whole[0]]
        if function == "add" and len(others) == 1 and len(whole) == 2:
            return "Add", {"inplace": inplace}, (x, others[0])
        if function == "mul" and len(values) == 2 and len(whole) == 1 and _is_factor(others[0], x):
            return "Scale", {}, (x, others[0])
        factors = [tensor for tensor in tensors if _memory(tensor) in self.parameters]
        if function == "mul" and len(factors) == 1 and math.prod(factors[0].shape) == x.shape[1]:
            return "LayerScale", {}, (x,)
        return "Activation", {"function": FUNCTIONS.get(function, function), "inplace": inplace}, (x,)


def _pool(kernel: Any, stride: Any = (), padding: Any = 0, ceil: bool = False, *_: Any) -> dict[str, Any]:
    def sides(value: Any) -> Any:
        return value if isinstance(value, int) else tuple(value)

    return {"kernel": sides(kernel), "stride": sides(stride) or None, "padding": sides(padding), "ceil": ceil}


def _is_factor(factor: Tensor, x: Tensor) -> bool:
    """Whether it is one factor for each channel of x."""
    return factor.ndim == x.ndim and tuple(factor.shape) == (1, x.shape[1], *(1,) * (x.ndim - 2))


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _part(tensor: Tensor) -> tuple[int, int, int]:
    return _memory(tensor), int(tensor.storage_offset()), tensor.numel()


def _per_image(tensor: Tensor) -> tuple[int, ...]:
    """The shape without the batch of one; where batch and positions were made one axis, that axis stays."""
    return tuple(tensor.shape[1:] if tensor.ndim > 1 and tensor.shape[0] == 1 else tensor.shape)


def _flat(args: Iterable[Any]) -> Iterable[Any]:
    for each in args:
        if isinstance(each, (tuple, list)):
            yield from _flat(each)
        else:
            yield each

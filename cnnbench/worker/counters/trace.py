"""A module read as it runs: every operation that torch dispatches for one image, named by the module it comes from.

Nothing that runs can be missed: an operation that no formula is known for becomes an `Opaque` step, to be listed.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from cnnbench.records.messages import Step, Traced
from cnnbench.worker.counters.collect import own_parameters

WITH_WEIGHTS = {"Conv", "Linear", "BatchNorm", "LayerNorm", "GroupNorm", "InstanceNorm", "LayerScale"}

Described = tuple[str, dict[str, Any], Sequence[Tensor]]
"""A layer's kind, its settings, and the tensors that it takes: the one its formulas are of, then the others."""

FREE = {
    "empty",
    "zeros",
    "ones",
    "full",
    "arange",
    "new_zeros",
    "new_empty",
    "lift_fresh",
    "fill_",
    "zero_",
    "as_strided_",
}
"""Operations that make something out of nothing, or only look at it in another way."""
COPIES = {
    "clone",
    "cat",
    "stack",
    "_unsafe_view",
    "constant_pad_nd",
    "roll",
    "index",
    "contiguous",
    "copy_",
    "_to_copy",
}
"""Operations that only arrange values."""
FUNCTIONS = {"hardtanh": "relu6", "_softmax": "softmax", "_safe_softmax": "softmax", "hardswish": "hardswish"}
"""Functions of single values, or named by torch otherwise than by the layers, beside those that torch says are."""


def trace(module: nn.Module, x: Tensor) -> Traced:
    """Every layer that one image x (1, C, H, W) passes in inference mode, in order."""
    reader = _Reader(module, x)
    with reader.naming(), torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # so that attention is seen as the products that it is
        try:
            with reader:
                module.eval()(x)
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
    return Traced(
        input_shape=tuple(x.shape[1:]),
        steps=reader.steps,
        params={name: pair[0] for name, pair in own_parameters(module).items()},
    )


class _Naming:
    """Keeps the stack of modules that are running."""

    def __init__(self, module: nn.Module) -> None:
        self.stack: list[str] = []
        self.names = {child: name for name, child in module.named_modules()}
        self.leaves = {name for child, name in self.names.items() if not any(True for _ in child.children())}

    def __enter__(self) -> None:
        self.hooks = [
            hook
            for child, name in self.names.items()
            for hook in (
                child.register_forward_pre_hook(lambda *_, name=name: self.stack.append(name)),
                child.register_forward_hook(lambda *_: self.stack.pop() and None),
            )
        ]

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()


class _Reader(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down each operation as it is dispatched."""

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.modules = _Naming(module)
        self.steps: list[Step] = []
        self.used: set[str] = set()
        self.own = {
            _memory(tensor): name.rpartition(".")[0] for name, tensor in module.state_dict(keep_vars=True).items()
        }
        """The module's own parameters and buffers, with the submodule that holds each."""
        self.made_by = {_memory(x): -1}
        """By piece of memory, the place of the step that wrote it last; -1 is the image."""
        self.alive: list[Tensor] = [x]  # so that no memory is used twice

    def naming(self) -> _Naming:
        """What must be entered while the module runs."""
        return self.modules

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        result = out[0] if isinstance(out, (tuple, list)) else out
        if isinstance(result, Tensor) and name not in FREE and not func.is_view:
            tensors = [each for each in _flat(args) if isinstance(each, Tensor)]
            if any(_memory(tensor) in self.made_by for tensor in tensors):
                owner = next((self.own[_memory(tensor)] for tensor in tensors if _memory(tensor) in self.own), None)
                self._write(self._described(name, func, args, tensors, result), result, owner)
        return out

    def _write(self, described: Described, result: Tensor, owner: str | None) -> None:
        kind, settings, tensors = described
        inputs = [(self.made_by.get(_memory(tensor), -1), _per_image(tensor)) for tensor in tensors]
        step = Step(
            name=self._name(kind, settings, owner), op=kind, settings=settings, inputs=inputs, shape=_per_image(result)
        )
        self.made_by[_memory(result)] = len(self.steps)
        self.alive.append(result)
        self.steps.append(step)

    def _name(self, kind: str, settings: dict[str, Any], owner: str | None) -> str:
        """Where it has weights, the name of the module that holds them; else that of the module that is running.

        In a module that has children, or a second time, with the function's behind it.
        """
        has_weights = kind in WITH_WEIGHTS and owner is not None
        module = owner if has_weights and owner is not None else self.modules.stack[-1] if self.modules.stack else ""
        function = str(settings.get("function", kind)).lower()
        plain = module if (has_weights or module in self.modules.leaves) and module not in self.used else ""
        name = plain or ".".join(part for part in (module, function) if part)
        count = 2
        unique = name
        while unique in self.used:
            unique = f"{name}_{count}"
            count += 1
        self.used.add(unique)
        return unique

    def _described(self, name: str, func: Any, args: Any, tensors: list[Tensor], result: Tensor) -> Described:
        known = getattr(self, f"_{name.strip('_')}", None)
        described: Described | None = known(*args) if known else None
        if described is None and name in COPIES:
            described = ("Copy", {"to": _per_image(result)}, self._values(tensors))
        if described is None and (torch.Tag.pointwise in func.tags or name.rstrip("_") in FUNCTIONS):
            described = self._pointwise(name, tensors, result)
        return described or ("Opaque", {"function": name, "to": _per_image(result)}, self._values(tensors))

    def _values(self, tensors: list[Tensor]) -> list[Tensor]:
        """Those that came from the image."""
        return [tensor for tensor in tensors if _memory(tensor) in self.made_by]

    def _pointwise(self, name: str, tensors: list[Tensor], result: Tensor) -> Described | None:
        function, inplace = name.rstrip("_"), name.endswith("_")
        values = self._values(tensors)
        whole = [value for value in values if value.shape == result.shape]
        if not whole:
            return None
        x, others = whole[0], [value for value in values if value is not whole[0]]
        if function == "add" and len(others) == 1 and len(whole) == 2:
            return "Add", {"inplace": inplace}, (x, others[0])
        if function == "mul" and len(values) == 2 and len(whole) == 1 and _is_factor(others[0], x):
            return "Scale", {}, (x, others[0])
        factors = [tensor for tensor in tensors if _memory(tensor) in self.own]
        if function == "mul" and len(factors) == 1 and math.prod(factors[0].shape) == x.shape[1]:
            return "LayerScale", {}, (x,)
        return "Activation", {"function": FUNCTIONS.get(function, function), "inplace": inplace}, (x,)

    def _convolution(self, x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Described | None:
        stride, padding, dilation, transposed, _, groups = rest
        if transposed or x.shape[0] != 1:
            return None
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

    def _addmm(self, bias: Tensor, x: Tensor, weight: Tensor) -> Described | None:
        if _memory(weight) not in self.own or _memory(bias) not in self.own:
            return None
        return "Linear", {"out_features": weight.shape[1], "bias": True}, (x,)

    def _mm(self, x: Tensor, weight: Tensor) -> Described:
        if _memory(weight) in self.own:
            return "Linear", {"out_features": weight.shape[1], "bias": False}, (x,)
        return "MatMul", {}, (x, weight)

    def _bmm(self, x: Tensor, other: Tensor) -> Described:
        return "MatMul", {}, (x, other)

    def _native_batch_norm(self, x: Tensor, weight: Tensor | None, *rest: Any) -> Described:
        uses_batch = rest[3]
        return "InstanceNorm" if uses_batch else "BatchNorm", {"affine": weight is not None}, (x,)

    def _native_layer_norm(self, x: Tensor, shape: Sequence[int], weight: Tensor | None, *_: Any) -> Described:
        return "LayerNorm", {"axes": len(shape), "affine": weight is not None}, (x,)

    def _native_group_norm(self, x: Tensor, weight: Tensor | None, *rest: Any) -> Described:
        return "GroupNorm", {"groups": rest[4], "affine": weight is not None}, (x,)

    def _max_pool2d_with_indices(self, x: Tensor, *settings: Any) -> Described | None:
        kernel, stride, padding, dilation, ceil = _filled(settings, (None, (), 0, 1, False))
        if any(each != 1 for each in _flat([dilation])):
            return None
        return "MaxPool", _pool(kernel, stride, padding, ceil), (x,)

    def _avg_pool2d(self, x: Tensor, *settings: Any) -> Described:
        return "AvgPool", _pool(*_filled(settings, (None, (), 0, False))), (x,)

    def _adaptive_avg_pool2d(self, x: Tensor, size: Sequence[int]) -> Described:
        return "AdaptiveAvgPool", {"size": tuple(size)}, (x,)

    def _mean(self, x: Tensor, axes: Sequence[int], *_: Any) -> Described | None:
        spatial = set(range(2, x.ndim))
        if x.shape[0] != 1 or not spatial or {axis % x.ndim for axis in axes} != spatial:
            return None
        return "AdaptiveAvgPool", {"size": 1}, (x,)

    def _cat(self, tensors: Sequence[Tensor], axis: int = 0) -> Described | None:
        values = self._values(list(tensors))
        if len(values) != len(tensors) or axis != 1 or tensors[0].shape[0] != 1 or tensors[0].ndim < 3:
            return None
        return "Concat", {}, values


def _filled(settings: Sequence[Any], defaults: Sequence[Any]) -> list[Any]:
    """The settings that were given, in order, then the defaults of those that were not."""
    return [*settings[: len(defaults)], *defaults[len(settings) :]]


def _pool(kernel: Any, stride: Any, padding: Any, ceil: bool) -> dict[str, Any]:
    def sides(value: Any) -> Any:
        return value if isinstance(value, int) else tuple(value)

    return {"kernel": sides(kernel), "stride": sides(stride) or None, "padding": sides(padding), "ceil": ceil}


def _is_factor(factor: Tensor, x: Tensor) -> bool:
    """Whether it is one factor for each channel of x."""
    return factor.ndim == x.ndim and tuple(factor.shape) == (1, x.shape[1], *(1,) * (x.ndim - 2))


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _per_image(tensor: Tensor) -> tuple[int, ...]:
    """The shape without the batch of one; where batch and positions were made one axis, that axis stays."""
    return tuple(tensor.shape[1:] if tensor.ndim > 1 and tensor.shape[0] == 1 else tensor.shape)


def _flat(args: Iterable[Any]) -> Iterable[Any]:
    for each in args:
        if isinstance(each, (tuple, list)):
            yield from _flat(each)
        else:
            yield each

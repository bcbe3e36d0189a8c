"""Copies of modules, also of those that keep a tensor of their last call, and runs with nothing dropped."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

DROPOUTS = (
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "feature_dropout",
)
"""Functions of torch that drop values; with `_` behind the name they write into their argument."""

RATES = {"multi_head_attention_forward": 10, "scaled_dot_product_attention": 4}
"""Functions that drop values among other things, and which of their arguments is the rate, `dropout_p`."""


def copied(module: nn.Module) -> nn.Module:
    """A deep copy. What is left of a graph of gradients, such as a kept activation, is copied as plain values.

    Attributes that cannot be copied, such as a lock, are shared.
    """
    original: Any = Tensor.__deepcopy__

    def plain(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
        if tensor.is_leaf:
            return original(tensor, memo)  # type: ignore[no-any-return]
        return memo.setdefault(id(tensor), tensor.detach().clone())  # type: ignore[no-any-return]

    Tensor.__deepcopy__ = plain  # type: ignore[method-assign]
    try:
        try:
            return copy.deepcopy(module)
        except TypeError:
            return copy.deepcopy(module, {id(value): value for value in _uncopied(module)})
    finally:
        Tensor.__deepcopy__ = original  # type: ignore[method-assign]


def _uncopied(module: nn.Module) -> Iterator[Any]:
    """Attributes of the module, and of those in it, that cannot be copied."""
    for child in module.modules():
        for name, value in vars(child).items():
            if name not in ("_parameters", "_buffers", "_modules"):
                try:
                    copy.deepcopy(value)
                except TypeError:
                    yield value


ALPHA_DROPOUTS = ("alpha_dropout", "feature_alpha_dropout")
ALPHA = 1.7580993408473766
"""Minus what alpha dropout puts in the place of a value (Klambauer et al. 2017, equation 2 and section "dropout")."""


def _mean_of_alpha_dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """What alpha dropout makes of x if each Bernoulli number is its mean, 1 - p."""
    scale = 0.0 if p == 1 else (1 - p) / math.sqrt((ALPHA**2 * p + 1) * (1 - p))
    return x * scale if training else x


class _NothingDropped(TorchFunctionMode):
    """Dropout changes nothing, whoever calls it, and a Bernoulli number is its mean, by which noise is scaled."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, options = getattr(func, "__name__", ""), dict(kwargs or {})
        if name.removesuffix("_") in DROPOUTS:
            return args[0] if args else options["input"]
        if name.removesuffix("_") in ALPHA_DROPOUTS:
            given = dict(zip(("input", "p", "training", "inplace"), args, strict=False)) | options
            training = given.get("training", given.get("train", False))
            return _mean_of_alpha_dropout(given["input"], given.get("p", 0.5), training)
        if name == "bernoulli_":
            p = args[1] if len(args) > 1 else options.get("p", 0.5)
            return args[0].copy_(p) if isinstance(p, Tensor) else args[0].fill_(p)
        if name == "bernoulli":
            p = args[1] if len(args) > 1 else options.get("p", args[0])
            return p.clone() if isinstance(p, Tensor) else torch.full_like(args[0], p)
        if name in RATES:
            place = RATES[name]
            args = (*args[:place], 0.0, *args[place + 1 :]) if len(args) > place else args
            options |= {} if len(args) > place else {"dropout_p": 0.0}
        return func(*args, **options)


@contextmanager
def nothing_dropped() -> Iterator[None]:
    """While this lasts, no value is dropped, by modules or by functions, though modules are in training mode."""
    with _NothingDropped():
        yield


class _Double(TorchFunctionMode):
    """Casts to float32 give float64, and so do constants that are made in float32."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, options = getattr(func, "__name__", ""), dict(kwargs or {})
        if name == "float":
            return args[0].double()
        if name.endswith("_") or name in ("__get__", "__set__", "__setitem__"):
            return func(*args, **options)
        args, options = tree_map(_wide, (args, options))
        return tree_map(_wide, func(*args, **options))


def _wide(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double() if value.dtype == torch.float32 else value
    return torch.float64 if value is torch.float32 else value


@contextmanager
def casts_to_double() -> Iterator[None]:
    """While this lasts, a module in float64 computes in float64 where it says `x.float()` too."""
    with _Double():
        yield

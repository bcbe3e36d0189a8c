"""How far the layers of a run are from float64, which layer is the first that rounding does not explain, and why.

A layer's error against the reference is the sum of what it adds, fed with the reference's values, and of what it
inherits: the difference between the layer as it ran and as it was fed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

ROOM = 10.0
"""A right layer may be so many times as far from float64 as torch's float32 is in the same layer: other orders of
summation differ by small factors."""
ROOM_OF_LARGEST = 3 * ROOM
"""The same for its largest error. Compiled 3x3 convolutions of ResNet-50 were off by 11 times as much in single values,
and by 4 times on average (AMD EPYC with AVX-512): faster algorithms, such as Winograd's, round some values coarsely."""
MIN_ADDED = 2e-6
"""In units of the layer's own root mean square, or of its largest value: no layer is accused of less. Approximations
of exponential functions differ by so much."""
ROUNDOFF = {
    "fp32": 1.0,
    "bf16": 2.0**16,
    "fp16": 2.0**13,
    "int8": 2.0**16,
    "int8-7bit": 2.0**17,
    "int8-signed": 2.0**17,
    "int8-pt2e": 2.0**16,
}
"""How many times coarser a format is than float32, which has 24 bits of significand: bfloat16 has 8, and float16 11;
int8 has 8 bits for the whole range of a tensor, and 7 where weights are so or a sign takes one."""
STEPS = (0.01, 0.1, 1.0)
"""Errors, in units of the layer's root mean square, whose first layer is told."""
SAME = 1e-3
"""How closely a simple cause must explain an error, as a share of it."""
FORMATS = {"bfloat16": 16, "float16": 13}
"""By format, how many of float32's 24 bits of significand it lacks."""
TINY = float(np.finfo(np.float32).tiny)

MAX_LEVELS = 256
"""Different values of a tensor of 8 bits."""
MAX_SHIFT = 3
"""Places that an image may be shifted by another padding."""
IMAGE_AXES = 3
"""A batch, channels, and places of an image or signal at least."""


@dataclass(frozen=True)
class LayerErrors:
    """The errors of one value in one run, in units of the reference's root mean square where nothing else is said."""

    place: int
    snr_db: float | None
    """Power of the reference over that of the error; None where there is no error, or no number."""
    cosine: float | None
    """Of the angle to the reference; None where either is zero or not finite."""
    largest: float | None
    """The largest difference from the reference, in its own unit; None where there are others than numbers."""
    nan: int
    infinite: int
    error: float | None
    added: float | None
    """Fed with the reference's values."""
    inherited: float | None
    limit: float
    """What rounding explains of what is added."""
    excess: float
    """What is added over what rounding explains, by root mean square or largest value; infinite for no number."""

    @property
    def is_wrong(self) -> bool:
        """Whether the layer is worse than rounding explains."""
        return self.excess > 1


def errors_of(
    place: int,
    exact: Array,
    made: NDArray[np.floating],
    fed: NDArray[np.floating],
    rounding_rms: float,
    rounding_largest: float,
    precision: str = "fp32",
) -> LayerErrors:
    """Compare one value (N, ...) as it ran and as it was fed with the reference; rounding is float32's.

    Of values that are not finite in the reference either, nothing is said.
    """
    nan = infinite = 0
    if not np.isfinite(made).all():
        nan, infinite = int(np.isnan(made).sum()), int(np.isinf(made).sum())
    coarse = ROUNDOFF[precision.removeprefix("amp-")]
    rms, peak = _rms(exact), _peak(exact)
    limits: list[float] = [
        max(room * own * coarse, MIN_ADDED * coarse * whole, TINY)
        for room, own, whole in ((ROOM, rounding_rms, rms), (ROOM_OF_LARGEST, rounding_largest, peak))
    ]
    if not math.isfinite(peak):
        return LayerErrors(place, None, None, None, nan, infinite, None, None, None, math.inf, 0.0)
    unit = rms or 1.0
    if fed.shape != exact.shape:
        excess = math.inf
        added = None
    else:
        difference = fed - exact
        rest = _rms(difference)
        excess = max(rest / limits[0], _peak(difference) / limits[1])
        excess, added = (excess, rest / unit) if math.isfinite(excess) else (math.inf, None)
    whole = made - exact if made.shape == exact.shape else None
    error = _rms(whole) if whole is not None and not nan + infinite else None
    product = _rms(made) * rms if error is not None else 0.0
    inherits = made.shape == fed.shape and not nan + infinite and np.isfinite(fed).all()
    return LayerErrors(
        place=place,
        snr_db=20 * math.log10(rms / error) if error and rms else None,
        cosine=_product(exact, made) / made.size / product if product else None,
        largest=_peak(whole) if error is not None and whole is not None else None,
        nan=nan,
        infinite=infinite,
        error=None if error is None else error / unit,
        added=added,
        inherited=_rms(made - fed) / unit if inherits else None,
        limit=limits[0] / unit,
        excess=excess,
    )


def _rms(values: NDArray[np.floating]) -> float:
    return math.sqrt(_product(values, values) / values.size) if values.size else 0.0


def _product(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """The sum of products of their numbers; not by BLAS, whose threads wait for each other longer than they compute."""
    flat = (np.asarray(each, np.float64).ravel() for each in (one, other))
    return float(np.einsum("i,i->", *flat))


def _peak(values: NDArray[np.floating]) -> float:
    """The largest absolute value; NaN if there is one."""
    return float(max(values.max(), -values.min())) if values.size else 0.0


def first_wrong(layers: Sequence[LayerErrors]) -> LayerErrors | None:
    """The first layer, in the network's order, that is worse than rounding explains."""
    return next((layer for layer in layers if layer.is_wrong), None)


def growth(layers: Sequence[LayerErrors]) -> list[tuple[float, LayerErrors]]:
    """By each of `STEPS` that is reached, the first layer whose error, added and inherited, is as large."""
    found = ((step, next((layer for layer in layers if (layer.error or 0) >= step), None)) for step in STEPS)
    return [(step, layer) for step, layer in found if layer is not None]


def cause_of(exact: Array, fed: Array) -> str:
    """What may be wrong with a layer, fed with the reference's values (N, C, ...): a word for it, or nothing.

    A cause is named if the error is all but gone without it.
    """
    if fed.shape != exact.shape:
        return "shape"
    if not np.isfinite(fed).all():
        return "overflow" if np.isinf(fed).any() else "nan"
    error = fed - exact
    tests = (
        ("permuted", _is_permuted),
        ("border", _is_at_border),
        ("shifted", _is_shifted),
        ("activation-missing", _lacks_activation),
        ("saturated", _is_saturated),
        ("zero", lambda exact, fed: not fed.any()),
        ("bias", lambda exact, fed: _is_small(_without_mean(error, fed, exact), error)),
        ("scale", lambda exact, fed: _is_scaled(exact, fed)),
        ("channels", lambda exact, fed: _is_in_few_channels(error, exact)),
        ("few-levels", lambda exact, fed: len(np.unique(fed)) <= MAX_LEVELS < len(np.unique(exact))),
        *((name, lambda exact, fed, bits=bits: _has_no_more_bits(fed, bits)) for name, bits in FORMATS.items()),
    )
    return next((name for name, test in tests if test(exact, fed)), "")


def _is_small(rest: Array, error: Array) -> bool:
    return _rms(rest) <= SAME * _rms(error)


def _is_permuted(exact: Array, fed: Array) -> bool:
    ordered = np.sort(fed, axis=None) - np.sort(exact, axis=None)
    return _rms(ordered) <= SAME * _rms(fed - exact)


def _is_at_border(exact: Array, fed: Array) -> bool:
    """Whether nothing is wrong inside, where there is an inside: a quarter off each side of each axis of the image."""
    if exact.ndim < IMAGE_AXES or min(exact.shape[2:]) < IMAGE_AXES:
        return False
    inside = _inside(fed - exact, 0)
    return bool(inside.size) and _is_small(inside, fed - exact)


def _is_shifted(exact: Array, fed: Array) -> bool:
    """Whether the inside is the reference's, some places further along all axes of the image."""
    if exact.ndim < IMAGE_AXES or min(exact.shape[2:]) < 2 * IMAGE_AXES:
        return False
    error, most = _inside(fed - exact, 0), max(1, min(exact.shape[2:]) // 4)
    shifts = [sign * shift for shift in range(1, min(most, MAX_SHIFT) + 1) for sign in (1, -1)]
    return any(_is_small(_inside(fed, 0) - _inside(exact, shift), error) for shift in shifts)


def _inside(values: Array, shift: int) -> Array:
    """Without a quarter off each side of each axis of the image; so many places further."""
    cut = [(max(1, size // 4), size) for size in values.shape[2:]]
    inside: Array = values[(slice(None), slice(None), *(slice(c + shift, size - c + shift) for c, size in cut))]
    return inside


def _lacks_activation(exact: Array, fed: Array) -> bool:
    low, high = float(exact.min()), float(exact.max())
    is_cut = min(np.mean(exact == low), 1.0) > SAME or np.mean(exact == high) > SAME
    return bool(is_cut) and _is_small(np.clip(fed, low, high) - exact, fed - exact)


def _is_saturated(exact: Array, fed: Array) -> bool:
    low, high = float(fed.min()), float(fed.max())
    return low < high and _is_small(np.clip(exact, low, high) - fed, fed - exact)


def _without_mean(error: Array, fed: Array, exact: Array) -> Array:
    """The error without its mean in each channel, where an activation has not hidden it."""
    if error.ndim < 2:
        return error
    seen = _seen(exact, fed)
    axes = (0, *range(2, error.ndim))
    count = np.maximum(seen.sum(axis=axes, keepdims=True), 1)
    rest: Array = (error - (error * seen).sum(axis=axes, keepdims=True) / count) * seen
    return rest


def _is_scaled(exact: Array, fed: Array) -> bool:
    if exact.ndim < 2 or exact[:, 0].size < 8:
        return False
    axes = (0, *range(2, exact.ndim))
    seen = _seen(exact, fed)
    count = np.maximum(seen.sum(axis=axes, keepdims=True), 1)
    x, y = ((v - (v * seen).sum(axis=axes, keepdims=True) / count) * seen for v in (exact, fed))
    power = (x * x).sum(axis=axes, keepdims=True)
    factor = (x * y).sum(axis=axes, keepdims=True) / np.where(power > 0, power, 1)
    return _is_small(y - factor * x, (fed - exact) * seen)


def _seen(exact: Array, fed: Array) -> NDArray[np.bool_]:
    """Where neither value is zero, as an activation makes many."""
    seen: NDArray[np.bool_] = (exact != 0) & (fed != 0)
    return seen


def _is_in_few_channels(error: Array, exact: Array) -> bool:
    """Whether all but a hundredth of the error's power is in a quarter of the channels."""
    if error.ndim < 2 or error.shape[1] < 8:
        return False
    power = np.sort(np.square(error).sum(axis=(0, *range(2, error.ndim))))[::-1]
    return bool(power[: max(1, len(power) // 4)].sum() >= 0.99 * power.sum())


def _has_no_more_bits(fed: Array, lacking: int) -> bool:
    bits = np.ascontiguousarray(fed, np.float32).view(np.uint32)
    return bool(((bits & np.uint32((1 << lacking) - 1)) == 0).all())

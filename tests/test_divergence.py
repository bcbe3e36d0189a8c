"""What is said of a layer's numbers, from values that are calculated by hand."""

import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from cnnbench.analysis.divergence import LayerErrors, cause_of, errors_of, first_wrong, growth
from cnnbench.suite.case import Precision

RANDOM = np.random.default_rng(0)
EXACT = RANDOM.standard_normal((2, 16, 9, 9))
ROUNDING = 3e-8 * float(np.sqrt(np.mean(EXACT**2)))


def errors(made: np.ndarray, fed: np.ndarray, place: int = 0, precision: str = "fp32") -> LayerErrors:
    return errors_of(place, EXACT, made, fed, ROUNDING, 3 * ROUNDING, precision)


def test_an_error_is_the_sum_of_what_a_layer_adds_and_what_it_inherits() -> None:
    exact = np.array([[3.0, 4.0], [0.0, 5.0]])
    layer = errors_of(0, exact, made=exact + 0.3, fed=exact - 0.1, rounding_rms=1e-7, rounding_largest=1e-7)
    rms = math.sqrt((9 + 16 + 25) / 4)
    assert layer.error == pytest.approx(0.3 / rms)
    assert layer.added == pytest.approx(0.1 / rms)
    assert layer.inherited == pytest.approx(0.4 / rms)
    assert layer.snr_db == pytest.approx(20 * math.log10(rms / 0.3))
    assert layer.largest == pytest.approx(0.3)
    made = exact + 0.3
    cosine = (exact * made).sum() / math.sqrt((exact**2).sum() * (made**2).sum())
    assert layer.cosine == pytest.approx(cosine)


def test_a_layer_is_wrong_if_what_it_adds_is_more_than_rounding_explains_whatever_it_inherits() -> None:
    noise = RANDOM.standard_normal(EXACT.shape)
    assert not errors(EXACT + 0.5 * noise, EXACT + 5e-8 * noise).is_wrong
    assert errors(EXACT, EXACT + 1e-5 * noise).is_wrong


def test_one_wrong_number_of_many_is_seen() -> None:
    fed = EXACT.copy()
    fed[0, 0, 0, 0] += 1e-4
    layer = errors(fed, fed)
    assert layer.is_wrong
    assert layer.added is not None
    assert layer.added < 1e-5


def test_single_values_may_be_rounded_as_coarsely_as_fast_algorithms_round_them() -> None:
    def found(times: float) -> LayerErrors:
        fed = EXACT.copy()
        fed[0, 0, 0, 0] += times * 1e-6
        return errors_of(0, EXACT, fed, fed, 1e-7, 1e-6)

    assert [found(times).is_wrong for times in (29.9, 30.1)] == [False, True]


def test_a_layer_may_be_ten_times_as_far_off_as_rounding_is_in_it() -> None:
    """By its root mean square; the largest errors are allowed three times as much."""

    def found(times: float, rounding: float = 1e-5) -> LayerErrors:
        fed = EXACT + times * 1e-5
        return errors_of(0, EXACT, fed, fed, rounding, 1.0)

    rms = float(np.sqrt(np.mean(EXACT**2)))
    assert [found(times).is_wrong for times in (9.9, 10.1)] == [False, True]
    assert found(25.0).excess == pytest.approx(2.5)
    assert found(1.0).limit == pytest.approx(1e-4 / rms)
    assert [replace(found(1.0), excess=excess).is_wrong for excess in (1.0, 1.001)] == [False, True]
    # No layer is accused of less than 2e-6 of its own size, by root mean square and by largest value.
    assert [found(0.1 * times * rms, 0.0).is_wrong for times in (1.9, 2.1)] == [False, True]
    one = EXACT.copy()
    one[0, 0, 0, 0] = -10.0
    for off, is_wrong in ((1.9e-5, False), (2.1e-5, True)):
        fed = one.copy()
        fed[0, 0, 0, 0] -= off
        assert errors_of(0, one, fed, fed, 1e-6, 0.0).is_wrong == is_wrong


BITS = dict.fromkeys(("bf16", "amp-bf16", "int8", "int8-pt2e"), 16)
BITS |= dict.fromkeys(("fp16", "amp-fp16"), 13) | dict.fromkeys(("int8-7bit", "int8-signed"), 17)
"""How many bits of significand a format lacks."""


@pytest.mark.parametrize("precision", BITS)
def test_a_coarser_format_rounds_by_the_bits_that_it_lacks(precision: str) -> None:
    for rounding in (0.0, 1e-5):
        own, limit = (errors_of(0, EXACT, EXACT, EXACT, rounding, 0.0, each).limit for each in (precision, "fp32"))
        assert own == pytest.approx(2.0 ** BITS[precision] * limit)
    assert {"fp32", *BITS} == set(get_args(Precision))


def test_a_16_bit_format_has_its_own_rounding() -> None:
    fed = EXACT * (1 + 2e-3 * RANDOM.standard_normal(EXACT.shape))
    assert errors(fed, fed).is_wrong
    assert not errors(fed, fed, precision="bf16").is_wrong


def test_no_numbers_and_another_shape_are_wrong_and_counted() -> None:
    fed = EXACT.copy()
    fed[0, 0, 0, :4] = math.nan, math.nan, math.inf, -math.inf
    layer = errors(fed, fed)
    assert (layer.nan, layer.infinite, layer.is_wrong, layer.error, layer.added) == (2, 2, True, None, None)
    assert errors(EXACT[:, :8], EXACT[:, :8]).is_wrong
    cut = errors(EXACT[:, :8], EXACT)
    assert (cut.is_wrong, cut.added, cut.error, cut.inherited) == (False, 0.0, None, None)
    odd = errors(EXACT, EXACT[:, :8])
    assert (odd.is_wrong, odd.excess, odd.added, odd.error, odd.inherited) == (True, math.inf, None, 0.0, None)
    own = errors(fed, EXACT)  # it ran so, and not where it was fed
    assert (own.is_wrong, own.added, own.largest, own.snr_db, own.inherited) == (False, 0.0, None, None, None)
    passed = errors(EXACT, fed)
    assert (passed.nan, passed.infinite, passed.is_wrong, passed.error, passed.inherited) == (0, 0, True, 0.0, None)


def test_what_is_not_finite_in_the_reference_accuses_nobody() -> None:
    exact = np.array([[1.0, math.inf]])
    assert not errors_of(0, exact, exact, exact, 0.0, 0.0).is_wrong
    silent = errors_of(3, exact, exact - 1, np.zeros((1, 2)), 0.0, 0.0)
    assert (silent.place, silent.infinite, silent.excess, silent.limit) == (3, 1, 0.0, math.inf)
    assert (silent.snr_db, silent.cosine, silent.largest, silent.nan, silent.error) == (None, None, None, 0, None)


def test_the_first_wrong_layer_and_where_errors_become_large_are_in_the_networks_order() -> None:
    noise = RANDOM.standard_normal(EXACT.shape)
    layers = [
        errors(EXACT + size * noise, EXACT + added * noise, place)
        for place, (size, added) in enumerate([(1e-7, 1e-8), (0.02, 1e-8), (0.5, 1e-3), (2.0, 1e-2)])
    ]
    first = first_wrong(layers)
    assert first is not None
    assert first.place == 2
    assert [(step, layer.place) for step, layer in growth(layers)] == [(0.01, 1), (0.1, 2), (1.0, 3)]


def test_a_layer_of_zeros_needs_no_division() -> None:
    zeros = np.zeros((2, 4))
    layer = errors_of(0, zeros, zeros, zeros, 0.0, 0.0)
    assert (layer.is_wrong, layer.error, layer.snr_db, layer.cosine) == (False, 0.0, None, None)
    layer = errors_of(0, zeros, zeros - 0.5, zeros + 0.25, 0.0, 0.0)
    assert (layer.error, layer.added, layer.inherited, layer.largest) == (0.5, 0.25, 0.75, 0.5)
    assert (layer.is_wrong, layer.snr_db, layer.cosine) == (True, None, None)
    nothing = np.zeros((2, 0))
    assert errors_of(0, nothing, nothing, nothing, 0.0, 0.0).error == 0.0


def test_growth_names_the_first_layer_that_reaches_each_step() -> None:
    layer = errors(EXACT, EXACT)
    grown = [replace(layer, place=place, error=error) for place, error in enumerate((None, 0.009, 0.1, 0.02, 0.99))]
    assert [(step, each.place) for step, each in growth(grown)] == [(0.01, 2), (0.1, 2)]


def bordered(exact: np.ndarray) -> np.ndarray:
    fed = exact.copy()
    fed[..., 0, :] += 1
    return fed


def shifted(exact: np.ndarray) -> np.ndarray:
    return np.pad(exact, ((0, 0), (0, 0), (0, 1), (0, 1)))[..., 1:, 1:]


def truncated(values: np.ndarray, bits: int) -> np.ndarray:
    kept = values.astype(np.float32).view(np.uint32) & np.uint32(0xFFFFFFFF << bits & 0xFFFFFFFF)
    return kept.view(np.float32).astype(np.float64)


PER_CHANNEL = RANDOM.standard_normal((1, 16, 1, 1))
POSITIVE = np.maximum(EXACT, 0)
CASES = {
    "shape": (EXACT, EXACT[..., :4]),
    "overflow": (EXACT, np.where(EXACT > 1, np.inf, EXACT)),
    "nan": (EXACT, np.where(EXACT > 1, np.nan, EXACT)),
    "permuted": (EXACT, EXACT.transpose(0, 1, 3, 2).reshape(EXACT.shape)),
    "border": (EXACT, bordered(EXACT)),
    "shifted": (EXACT, shifted(EXACT)),
    "activation-missing": (POSITIVE, EXACT),
    "saturated": (EXACT, np.clip(EXACT, -1, 1)),
    "zero": (EXACT, np.zeros_like(EXACT)),
    "bias": (EXACT, EXACT + PER_CHANNEL),
    "scale": (EXACT, EXACT * (1 + 0.01 * PER_CHANNEL) + PER_CHANNEL),
    "channels": (EXACT, np.where(np.arange(16)[:, None, None] == 3, RANDOM.standard_normal(EXACT.shape), EXACT)),
    "few-levels": (EXACT, np.round(EXACT * 10) / 10),
    "bfloat16": (EXACT, truncated(EXACT, 16)),
    "float16": (EXACT, truncated(EXACT, 13)),
    "": (EXACT, EXACT + RANDOM.standard_normal(EXACT.shape)),
}


def with_line(line: int, axis: int = 2, exact: np.ndarray = EXACT) -> np.ndarray:
    """With one row or column of the images off by one."""
    off: np.ndarray = np.zeros_like(exact)
    off.swapaxes(0, axis)[line] = 1
    found: np.ndarray = exact + off
    return found


def moved(exact: np.ndarray, by: int) -> np.ndarray:
    """Each value from so many places further along all axes of the image; zero where there is none."""
    sides = [(0, 0)] * 2 + [(abs(by), abs(by))] * (exact.ndim - 2)
    found = np.pad(exact, sides)
    for axis in range(2, exact.ndim):
        found = np.take(found, np.arange(exact.shape[axis]) + abs(by) + by, axis)
    return found


def of_levels(count: int) -> np.ndarray:
    """The values in their order, rounded to so many different ones."""
    places = np.argsort(np.argsort(EXACT, axis=None)).reshape(EXACT.shape)
    found: np.ndarray = np.take(np.sinh(np.linspace(-3.1, 3.2, count)), places * count // EXACT.size)
    return found


def replaced(exact: np.ndarray, channels: int) -> np.ndarray:
    """With so many channels of other values."""
    other = np.random.default_rng(1).standard_normal(exact.shape)
    return np.where(np.arange(exact.shape[1]).reshape(-1, *[1] * (exact.ndim - 2)) < channels, other, exact)


def with_value(place: float, value: float) -> np.ndarray:
    """With one value inside the first image, beyond all others."""
    found = EXACT.copy()
    found[0, 0, 4, 4] = value + math.copysign(place, value)
    return found


FIRST = np.arange(16)[:, None, None] == 0
DEAD = np.where(FIRST, 0.0, EXACT)
FEW_WRONG = EXACT + (np.arange(16)[:, None, None] < 4)
FEW_WRONG[0, 9, 4, 4] += 1
WIDE = np.random.default_rng(2).standard_normal((2, 16, 6, 16))
UP_AND_DOWN, IN_CHANNELS = np.array([[1.0], [-1.0]]), (("channels", 4), ("", 5))
ALTERNATING = np.where(np.arange(8) % 2, 1.0, -1.0) * np.ones((2, 16, 8, 8))
LARGE = RANDOM.standard_normal((1, 4, 16, 16))
EVEN = RANDOM.standard_normal((2, 16, 8, 8))
EDGES: list[tuple[str, np.ndarray, np.ndarray]] = [
    # A quarter of 9 are 2 places on each side.
    *(("border", EXACT, with_line(line, axis)) for line in (0, 1, -2, -1) for axis in (2, 3)),
    *(("", EXACT, with_line(line, axis)) for line in (2, -3) for axis in (2, 3)),
    ("border", EXACT[..., :3], with_line(2, 3, EXACT[..., :3])),
    ("border", EXACT[..., 0], with_line(1, 2, EXACT[..., 0])),
    ("", EXACT[..., :2], with_line(1, 3, EXACT[..., :2])),
    # At most by a quarter of the image, and by three places; of images of six places at least.
    *(("shifted", EXACT, moved(EXACT, by)) for by in (-2, -1, 1, 2)),
    *(("", EXACT, moved(EXACT, by)) for by in (-3, 3)),
    *(("shifted" if abs(by) < 4 else "", LARGE, moved(LARGE, by)) for by in (-4, -3, 3, 4)),
    ("shifted", EXACT[..., :6, :6], moved(EXACT[..., :6, :6], 1)),
    ("", EXACT[..., :5, :5], moved(EXACT[..., :5, :5], 1)),
    ("shifted", EXACT[..., 0], moved(EXACT[..., 0], 2)),
    ("activation-missing", np.minimum(EXACT, 1), EXACT),
    ("activation-missing", np.clip(EXACT, -1, 1), EXACT),
    ("", np.maximum(EXACT, 0), 2 * EXACT + np.cos(EXACT)),
    # Without an activation that cuts, a value beyond the largest is a wrong value.
    ("channels", with_value(0, 9), with_value(1, 9)),
    ("channels", with_value(0, -9), with_value(1, -9)),
    ("border", EXACT[:, :1], with_line(0, 2, EXACT[:, :1])),
    ("", WIDE, moved(WIDE, 2)),  # by a quarter of its shorter side
    # Of the error's root mean square, 0.0007 and 0.0015 are left.
    ("bias", EVEN, EVEN + PER_CHANNEL + 0.0007 * ALTERNATING),
    ("", EVEN, EVEN + 1 + 0.0015 * ALTERNATING),
    # Where there are values enough to tell.
    ("bias", EXACT[:, :, 0, 0], EXACT[:, :, 0, 0] + PER_CHANNEL[:, :, 0, 0]),
    ("scale", EXACT[0, :8, 0], EXACT[0, :8, 0] * 1.5 + 1),
    ("", EXACT[0, :7, 0], EXACT[0, :7, 0] * np.linspace(1.5, 2, 9)),
    ("", EXACT[0, :7, 0], EXACT[0, :7, 0] * 1.5),
    # A quarter of the channels, where there are eight at least.
    ("channels", EXACT, replaced(EXACT, 4)),
    ("", EXACT, replaced(EXACT, 5)),
    ("channels", EXACT[:, :8], replaced(EXACT[:, :8], 2)),
    ("", EXACT[:, :8], replaced(EXACT[:, :8], 3)),
    ("", EXACT[:, :7], replaced(EXACT[:, :7], 1)),
    ("channels", EXACT, FEW_WRONG),  # all but one in a hundred of the error's power
    *((cause, EXACT[..., 0, 0], EXACT[..., 0, 0] + UP_AND_DOWN * (np.arange(16) < n)) for cause, n in IN_CHANNELS),
    # Where a channel has one value that is not 0, or none; and where there are no channels.
    ("bias", EXACT[:1, :, 0, 0], (EXACT + PER_CHANNEL)[:1, :, 0, 0]),
    ("bias", DEAD, np.where(FIRST, 0.0, EXACT + PER_CHANNEL)),
    ("scale", DEAD, 1.5 * DEAD),
    ("", EXACT[0, 0, 0], EXACT[0, 0, 0] + 1),
    ("few-levels", EXACT, of_levels(256)),
    ("", EXACT, of_levels(257)),
    ("", of_levels(256) / 2, of_levels(256) ** 3),
    ("bfloat16", EXACT, truncated(EXACT, 17)),
    ("float16", EXACT, truncated(EXACT, 15)),
    ("", EXACT, (truncated(EXACT, 17).astype(np.float32).view(np.uint32) | 1).view(np.float32).astype(np.float64)),
    ("", EXACT, truncated(EXACT, 12)),
]


@pytest.mark.parametrize("number", range(len(EDGES)))
def test_a_cause_is_named_up_to_its_edge_and_not_beyond(number: int) -> None:
    cause, exact, fed = EDGES[number]
    assert cause_of(exact, fed) == cause


@pytest.mark.parametrize("cause", CASES)
def test_a_cause_is_known_by_its_numbers(cause: str) -> None:
    assert cause_of(*CASES[cause]) == cause


def test_a_bias_is_known_behind_an_activation() -> None:
    assert cause_of(POSITIVE, np.maximum(EXACT + 0.1 * PER_CHANNEL, 0)) in ("bias", "scale")

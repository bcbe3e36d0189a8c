"""What is said of a layer's numbers, from values that are calculated by hand."""

import math
from typing import get_args

import numpy as np
import pytest

from cnnbench.analysis.divergence import ROOM, ROOM_OF_LARGEST, LayerErrors, cause_of, errors_of, first_wrong, growth
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
    assert layer.added < ROOM * 1e-6


def test_single_values_may_be_rounded_as_coarsely_as_fast_algorithms_round_them() -> None:
    def found(times: float) -> LayerErrors:
        fed = EXACT.copy()
        fed[0, 0, 0, 0] += times * 1e-6
        return errors_of(0, EXACT, fed, fed, 1e-7, 1e-6)

    assert not found(0.9 * ROOM_OF_LARGEST).is_wrong
    assert found(1.1 * ROOM_OF_LARGEST).is_wrong


def test_a_16_bit_format_has_its_own_rounding() -> None:
    fed = EXACT * (1 + 2e-3 * RANDOM.standard_normal(EXACT.shape))
    assert errors(fed, fed).is_wrong
    assert not errors(fed, fed, precision="bf16").is_wrong


BITS = dict.fromkeys(("bf16", "amp-bf16", "int8", "int8-pt2e"), 16)
BITS |= dict.fromkeys(("fp16", "amp-fp16"), 13) | dict.fromkeys(("int8-7bit", "int8-signed"), 17)
"""How many bits of significand a format lacks."""


@pytest.mark.parametrize("precision", BITS)
def test_a_coarser_format_rounds_by_the_bits_that_it_lacks(precision: str) -> None:
    for rounding in (0.0, 1e-5):
        own, limit = (errors_of(0, EXACT, EXACT, EXACT, rounding, 0.0, each).limit for each in (precision, "fp32"))
        assert own == pytest.approx(2.0 ** BITS[precision] * limit)
    assert {"fp32", *BITS} == set(get_args(Precision))


def test_no_numbers_and_another_shape_are_wrong_and_counted() -> None:
    fed = EXACT.copy()
    fed[0, 0, 0, :3] = math.nan, math.inf, -math.inf
    layer = errors(fed, fed)
    assert (layer.nan, layer.infinite, layer.is_wrong, layer.error, layer.added) == (1, 2, True, None, None)
    assert errors(EXACT[:, :8], EXACT[:, :8]).is_wrong


def test_what_is_not_finite_in_the_reference_accuses_nobody() -> None:
    exact = np.array([[1.0, math.inf]])
    assert not errors_of(0, exact, exact, exact, 0.0, 0.0).is_wrong


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


@pytest.mark.parametrize("cause", CASES)
def test_a_cause_is_known_by_its_numbers(cause: str) -> None:
    assert cause_of(*CASES[cause]) == cause


def test_a_bias_is_known_behind_an_activation() -> None:
    assert cause_of(POSITIVE, np.maximum(EXACT + 0.1 * PER_CHANNEL, 0)) in ("bias", "scale")

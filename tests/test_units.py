"""Numbers with units, as they are read and written."""

import pytest

from cnnbench.report.format import format_count, format_seconds, significant
from cnnbench.suite.parse import parse_duration, parse_image_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10m", 600),
        ("90s", 90),
        ("1h30m", 5400),
        ("500ms", 0.5),
        ("2.5", 2.5),
        (3, 3),
        ("1m500ms", 60.5),
        ("720h", 2592e3),
        (2592000, 2592e3),
    ],
)
def test_durations_are_read(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10q", "0s", "-1", "m", "inf", True, "721h", 2592001, -2592001])
def test_a_bad_duration_is_told(text: str | int) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"), [(224, (224,)), ("224", (224,)), ("480x640", (480, 640)), ("8x9x10", (8, 9, 10))]
)
def test_image_sizes_are_one_number_for_all_sides_or_height_by_width(text: str | int, size: tuple[int, ...]) -> None:
    assert parse_image_size(text) == size


@pytest.mark.parametrize("text", ["0", "3x", "x3", "-4", "3x4x5x6", "2.5", True, "0x5"])
def test_a_bad_image_size_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="expected an image"):
        parse_image_size(text)


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(1234.5, 3, "1,230"), (0.012345, 3, "0.0123"), (9.996, 3, "10.00"), (0, 3, "0"), (154.8, 2, "150")],
)
def test_figures_have_so_many_significant_digits(value: float, digits: int, text: str) -> None:
    assert significant(value, digits) == text


def test_counts_have_metric_prefixes() -> None:
    assert [format_count(n) for n in (11_689_512, 1_814_073_344, 281_640, 7)] == [
        "11.7 M",
        "1.81 G",
        "282 k",
        "7.00",
    ]


def test_waiting_times_read_like_speech() -> None:
    assert [format_seconds(s) for s in (42, 185, 3720)] == ["42 s", "3 min 05 s", "1 h 02 min"]


def test_an_image_larger_than_any_case_may_have_is_refused() -> None:
    assert parse_image_size("2147483647") == (2**31 - 1,)
    with pytest.raises(ValueError, match="expected sides below 2\\^31 pixels; got '2147483648x1'"):
        parse_image_size("2147483648x1")

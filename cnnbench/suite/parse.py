"""Values with units as people type them: durations, shares, image sizes."""

import math
import re
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

from cnnbench.errors import InputError

S = TypeVar("S")
T = TypeVar("T")

_NUMBER = r"([0-9]{1,9}(?:\.[0-9]{1,30})?)"
MAX_SIDE = 2**31
MAX_SPATIAL_AXES = 3
_DURATION = re.compile(rf"(?:{_NUMBER}h)?(?:{_NUMBER}m(?!s))?(?:{_NUMBER}s)?(?:{_NUMBER}ms)?")
MAX_DURATION_S = 30 * 24 * 3600.0


def checked(parser: Callable[[S], T], value: S, name: str) -> T:
    """A parsed option or argument. Raises InputError, naming it."""
    try:
        return parser(value)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from None


def parse_duration(text: str | float) -> float:
    """Seconds from `10m`, `1h30m`, `90s`, `500ms`, or a plain number of seconds. Raises ValueError."""
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        seconds = float(text) if abs(text) < MAX_DURATION_S + 1 else math.inf
    else:
        word = str(text).strip()
        match = _DURATION.fullmatch(word)
        if re.fullmatch(_NUMBER, word):
            seconds = float(word)
        elif match and word:
            hours, minutes, secs, millis = (float(part or 0) for part in match.groups())
            seconds = hours * 3600 + minutes * 60 + secs + millis / 1000
        else:
            raise ValueError(f"expected a duration such as 90s, 10m or 1h30m; got {shown(text)}")
    if not 0 < seconds <= MAX_DURATION_S:
        raise ValueError(f"expected a duration above zero and of at most 720h; got {shown(text)}")
    return seconds


def parse_bytes(text: str) -> int:
    """Bytes from `500MB`, `2GB` or `1.5GiB`. Raises ValueError."""
    match = re.fullmatch(rf"{_NUMBER}\s*(MB|GB|MiB|GiB)", text.strip())
    if not match or not float(match[1]):
        raise ValueError(f"expected an amount of memory such as 500MB or 2GB; got {shown(text)}")
    return int(float(match[1]) * {"MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}[match[2]])


def parse_percent(text: str) -> float:
    """A share from `5%`, `0.5 %` or `0.05`. Raises ValueError."""
    match = re.fullmatch(rf"{_NUMBER}\s*(%?)", text.strip())
    share = float(match.group(1)) / (100 if match.group(2) else 1) if match else math.nan
    if not 0 < share < 1:
        raise ValueError(f"expected a share above 0 and below 100 %, such as 5% or 0.05; got {shown(text)}")
    return share


def parse_target(text: str) -> str:
    """The address of a server over HTTP. Raises ValueError."""
    try:
        parts = urlsplit(text)
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_one = False
    if not is_one or parts.query or parts.fragment or parts.username is not None or not text.isprintable():
        raise ValueError(
            f"expected an address such as http://127.0.0.1:8000 or http://127.0.0.1:8000/v2/models/NAME; "
            f"got {shown(text)}"
        )
    return text


def parse_image_size(text: str | int) -> tuple[int, ...]:
    """(side,) from `224`, for all sides; (height, width) in pixels from `480x640`; (depth, height, width) of volumes.

    Raises ValueError.
    """
    size = _sides(text)
    if not 1 <= len(size) <= MAX_SPATIAL_AXES:
        raise ValueError(
            f"expected an image size such as 224, 480x640 (height x width) or 16x112x112; got {shown(text)}"
        )
    if min(size) < 1:
        raise ValueError(f"expected an image of at least one pixel; got {shown(text)}")
    if max(size) >= MAX_SIDE:
        raise ValueError(f"expected sides below 2^31 pixels; got {shown(text)}")
    return size


def parse_shape(value: object) -> tuple[int, ...]:
    """The shape of one input without its batch: (3, 224, 224) from `3x224x224` or a list. Raises ValueError."""
    shape = tuple(value) if isinstance(value, (list, tuple)) else _sides(value)
    if not shape or not all(type(size) is int and 0 < size < MAX_SIDE for size in shape):
        raise ValueError(f"expected the shape of one input without its batch, such as 3x224x224; got {shown(value)}")
    return shape


def parse_inputs(value: object) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Each input's name and shape, in order, from a mapping or from `NAME=SHAPE`. Raises ValueError."""
    if isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value):
        value = {name: shape for name, _, shape in (each.partition("=") for each in value)}
    if not isinstance(value, dict) or not value or not all(str(name).isidentifier() for name in value):
        raise ValueError(
            f"expected inputs by name, such as {{left: [3, 224, 224]}} or left=3x224x224; got {shown(value)}"
        )
    return tuple((str(name), parse_shape(shape)) for name, shape in value.items())


def _sides(value: object) -> tuple[int, ...]:
    """Numbers joined by `x`; none where it is something else."""
    word = "" if isinstance(value, bool) else shown(value).strip("' ")
    return tuple(map(int, word.split("x"))) if re.fullmatch(r"[0-9]{1,10}(x[0-9]{1,10})*", word) else ()


def shown(value: object) -> str:
    """As it was given, cut where it is long; a whole number may have more digits than Python shows."""
    try:
        text = "nothing" if value is None else repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."

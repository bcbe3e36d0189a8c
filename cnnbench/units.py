"""The conventions, stated once, and the way numbers with units are read and written.

*1 MAC (a multiplication and an addition) = 2 FLOP. GB = 1e9 bytes, GiB = 2**30 bytes.*
Times are seconds inside the program and carry `_s` in their names; sizes carry `_bytes`.
"""

import math
import re

CONVENTION = "1 MAC = 2 FLOP; MB = 1e6 bytes, MiB = 2^20 bytes"

FLOP_PER_MAC = 2
FLOAT_BYTES = 4  # float32
INDEX_BYTES = 8  # int64
MB = 10**6
MIB = 2**20
GIGA = 10**9

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")


def parse_duration(text: str | float) -> float:
    """Seconds from `10m`, `1h30m`, `90s`, `500ms`, or a plain number of seconds. Raises ValueError."""
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        seconds = float(text)
    else:
        word = str(text).strip()
        match = _DURATION.fullmatch(word)
        if re.fullmatch(r"\d+(\.\d+)?", word):
            seconds = float(word)
        elif match and word:
            hours, minutes, secs, millis = (float(part or 0) for part in match.groups())
            seconds = hours * 3600 + minutes * 60 + secs + millis / 1000
        else:
            raise ValueError(f"expected a duration such as 90s, 10m or 1h30m; got {text!r}")
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"expected a duration above zero; got {text!r}")
    return seconds


def parse_percent(text: str) -> float:
    """A share from `5%`, `0.5 %` or `0.05`. Raises ValueError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%?)", text.strip())
    share = float(match.group(1)) / (100 if match.group(2) else 1) if match else math.nan
    if not 0 < share < 1:
        raise ValueError(f"expected a share above 0 and below 100 %, such as 5% or 0.05; got {text!r}")
    return share


def parse_image_size(text: str | int) -> tuple[int, ...]:
    """(side,) from `224`, for all sides; (height, width) in pixels from `480x640`. Raises ValueError."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", str(text).strip()) if not isinstance(text, bool) else None
    if not match:
        raise ValueError(f"expected an image size such as 224 or 480x640 (height x width); got {text!r}")
    size = tuple(int(side) for side in match.groups() if side)
    if min(size) < 1:
        raise ValueError(f"expected an image of at least one pixel; got {text!r}")
    return size


def significant(value: float, digits: int = 3) -> str:
    """`value` with so many significant digits and no exponent.

    >>> significant(1234.5), significant(0.012345)
    ('1,230', '0.0123')
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, decimals):,.{max(decimals, 0)}f}"


def format_count(value: float) -> str:
    """A count with its metric prefix: 11.7 M, 1.81 G."""
    for scale, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            return f"{significant(value / scale)} {prefix}"
    return significant(value)


def format_seconds(seconds: float) -> str:
    """A time a person waits for: 42 s, 3 min 05 s, 1 h 02 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"

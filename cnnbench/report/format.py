"""How numbers with units are written.

*1 MAC (a multiplication and an addition) = 2 FLOP. GB = 1e9 bytes, GiB = 2**30 bytes.*
"""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnnbench.analysis.stats import Estimate

NONE = "–"
"""Where there is nothing to measure."""
UNKNOWN = "unknown"
"""Where something was not measured."""
CONVENTION = "1 MAC = 2 FLOP; MB = 1e6 bytes, MiB = 2^20 bytes"


def significant(value: float, digits: int = 3) -> str:
    """`value` with so many significant digits and no exponent.

    >>> significant(1234.5), significant(0.012345)
    ('1,230', '0.0123')
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, decimals):,.{max(decimals, 0)}f}"


def in_giga(value: float) -> str:
    """In units of 1e9, as of bytes and operations per second."""
    return significant(value / 1e9)


def percent(share: float) -> str:
    """A share of one: 4.2 %."""
    return f"{significant(100 * share, 2)} %"


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


def interval_text(of: "Estimate") -> str:
    """`12.3 [12.1, 12.6]`, with digits down to about a tenth of the interval's width, two to four of them."""
    if of.low is None or of.high is None:
        return f"{significant(of.value, 2)} [?]"
    width = of.high - of.low
    digits = 4 if width <= 0 else math.ceil(math.log10(of.value / width)) + 1
    decimals = min(max(digits, 2), 4) - 1 - math.floor(math.log10(of.value))
    return "{} [{}, {}]".format(*(f"{round(v, decimals):,.{max(decimals, 0)}f}" for v in (of.value, of.low, of.high)))


def accuracy_text(of: "Estimate") -> str:
    """Of percent: `93.2 [92.0, 94.2]`, without its interval where that is a point."""
    texts = [f"{end:.1f}" for end in (of.value, of.low, of.high) if end is not None]
    return texts[0] if of.low == of.high else "{} [{}, {}]".format(*texts)


def accuracy_source(data: str) -> str:
    """Whose accuracy it is: published, if no data set is named on which it was measured."""
    return f"measured on {data}" if data else "published"


def ratio_text(of: "Estimate") -> str:
    """`×1.83 [1.79, 1.90]`."""
    if of.low is None or of.high is None:
        return f"×{of.value:.1f} [?]"
    return f"×{of.value:.2f} [{of.low:.2f}, {of.high:.2f}]"

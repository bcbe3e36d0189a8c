"""The search for the highest rate that a service keeps up with: bisection on rates that all cases share."""

import math
from dataclasses import dataclass, field

STEP = 1.05
"""Neighbouring rates differ by 5 %; raced cases that meet at a rate get the same arrivals."""
FIRST_SHARE, LOWEST_SHARE, HIGHEST_SHARE = 0.6, 0.02, 1.3
"""Of the expected capacity: where the search begins, and between which rates it stays."""
FIRST_STRIDE = 4
"""Places that it goes up or down first; twice as many each time, until it has a VALID and an INVALID rate."""


def rate_at(place: int) -> float:
    """Queries per second at a place of the grid."""
    return float(f"{STEP**place:.4g}")


def place_of(rate: float) -> int:
    """The place of the grid that is nearest to a rate."""
    return round(math.log(rate) / math.log(STEP))


@dataclass
class RateSearch:
    """Learns verdicts, and says which rate to test next.

    `hints` are tested first: the ends of an interval that is to be confirmed.
    """

    capacity: float
    """About the highest rate that can be kept up with at all, in queries per second."""
    hints: list[int] = field(default_factory=list)
    verdicts: dict[int, bool] = field(default_factory=dict)

    def learn(self, place: int, is_valid: bool) -> None:
        """A test at a place has ended."""
        self.verdicts[place] = is_valid

    def next(self) -> int | None:
        """The place to test next; None when the neighbours of an interval are known, or there is nowhere to go."""
        lowest, highest = (place_of(share * self.capacity) for share in (LOWEST_SHARE, HIGHEST_SHARE))
        invalid = min((place for place, is_valid in self.verdicts.items() if not is_valid), default=None)
        valid = max(
            (p for p, is_valid in self.verdicts.items() if is_valid and (invalid is None or p < invalid)), default=None
        )
        for hint in self.hints:
            if hint not in self.verdicts and (valid is None or valid < hint) and (invalid is None or hint < invalid):
                return hint
        stride = FIRST_STRIDE * 2 ** max(len(self.verdicts) - 1, 0)
        if valid is None and invalid is None:
            return place_of(FIRST_SHARE * self.capacity)
        if valid is None and invalid is not None:
            return max(lowest, invalid - stride) if invalid > lowest else None
        assert valid is not None
        if invalid is None:
            return min(highest, valid + stride) if valid < highest else None
        return (valid + invalid) // 2 if invalid - valid > 1 else None

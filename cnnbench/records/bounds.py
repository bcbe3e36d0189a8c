"""Numbers and texts of files within bounds, so that nothing that is computed from them overflows or divides by zero."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from cnnbench.suite.case import Frozen

Count = Annotated[int, Field(ge=0, lt=2**53)]
"""That a float holds exactly."""
PositiveCount = Annotated[int, Field(ge=1, lt=2**53)]
Seconds = Annotated[float, Field(ge=0, lt=1e9)]


def _as_a_clock_gives(seconds: float) -> float:
    if 0 < seconds < 1e-12:
        raise ValueError("expected 0 s, or as much as a clock can tell")
    return seconds


Elapsed = Annotated[Seconds, AfterValidator(_as_a_clock_gives)]
"""Seconds that other figures are divided by, where they are not 0."""
Repetitions = Annotated[list[Annotated[float, Field(ge=1e-12, lt=1e9)]], Field(min_length=1)]
"""Seconds of each."""
Figure = Annotated[float, Field(ge=0, lt=1e18)]


def _known_moment(said: object) -> str:
    try:
        moment = datetime.fromisoformat(str(said))
        moment.astimezone(UTC)
        moment.astimezone()
    except (ValueError, OverflowError, OSError):
        return ""
    return str(said)


Moment = Annotated[str, BeforeValidator(_known_moment)]
"""Local time with its offset, ISO 8601; empty where a file tells none."""


class Recorded(Frozen):
    """A value in a run's files: without numbers that are none, or texts without end."""

    model_config = ConfigDict(allow_inf_nan=False, str_max_length=100_000)

"""What a worker that serves a model can be asked beside what every worker can."""

from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from cnnbench.records.messages import Request
from cnnbench.records.serving import Scenario


class Drive(Request):
    """Have LoadGen test the open case by one scenario; the answer is a `LoadTest`."""

    op: Literal["drive"] = "drive"
    scenario: Scenario
    folder: str
    """For LoadGen's logs; it is made."""
    rate: NonNegativeFloat | None = None
    """Queries per second: offered in `server`, expected in `offline`."""
    bound_s: NonNegativeFloat | None = None
    """Of p99 in `server`."""
    expected_s: NonNegativeFloat
    """About how long a query takes."""
    min_queries: NonNegativeInt
    min_s: NonNegativeFloat
    max_s: NonNegativeFloat = 0.0
    """No query is issued later; 0 is no limit."""
    max_waiting: NonNegativeInt = 0
    """The test ends, INVALID, when so many queries of `server` wait; 0 is no limit."""
    seed: NonNegativeInt = 0
    batch: PositiveInt | None = None
    """The largest that the queue forms; None is the case's."""
    delay_s: NonNegativeFloat | None = None
    """The longest that a query waits for others; None is the case's."""
    system: Literal["model", "queue", "none"] = "model"
    """What is tested: the case, the queue in front of a session that does nothing, or nothing at all."""

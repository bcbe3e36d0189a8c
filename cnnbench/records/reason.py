"""Why a record has its status, and what went on beside a block: closed lists of codes. Their words are the report's."""

from typing import Literal, get_args

from cnnbench.errors import CnnbenchError, ModelError, WorkerCrashed, WorkerHung, WorkerOutOfMemory
from cnnbench.records.bounds import Figure, Recorded

Code = Literal[
    "wide-interval",
    "drift",
    "two-modes",
    "interference",
    "not-measured",
    "parity",
    "counts",
    "denormals",
    "not-finite",
    "timers",
    "low-load",
    "no-rate",
    "device",
    "precision",
    "threads",
    "tf32",
    "layout",
    "allocator",
    "graph-breaks",
    "traced",
    "runtime",
    "claimed",
    "crashed",
    "hung",
    "out-of-memory",
    "model",
    "error",
    "export-failed",
    "not-exportable",
    "no-graph",
    "no-device",
    "no-runtime",
    "no-allocator",
    "no-loadgen",
    "no-package",
    "no-accuracy",
    "unsupported",
    "other",
]
"""docs/formats.md says what each means; a code never changes its meaning."""
CODES: tuple[Code, ...] = get_args(Code)


class Reason(Recorded):
    """Why a record has its status."""

    code: Code
    detail: str = ""
    """Figures, or another program's own words."""

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}" if self.detail else self.code


def reason_for(error: CnnbenchError) -> Reason:
    """The reason that an error is for a case that it stopped."""
    codes: dict[type[CnnbenchError], Code] = {
        WorkerCrashed: "crashed",
        WorkerHung: "hung",
        WorkerOutOfMemory: "out-of-memory",
        ModelError: "model",
    }
    return Reason(code=codes.get(type(error), "error"), detail=str(error))


InterferenceKind = Literal["steal", "other-processes", "throttled", "thermal", "swap"]
"""
steal            share of all CPUs' time that the host gave to other machines
other-processes  share of all CPUs' time that processes beside the measured ones used
throttled        share of the block for which threads were throttled by the CPU quota
thermal          thermal throttling events
swap             pages that went to or came from swap
"""
INTERFERENCE_SHARES: tuple[InterferenceKind, ...] = ("steal", "other-processes", "throttled")
"""The kinds whose amount is a share; the others' is a number of events."""


class Interference(Recorded):
    """What the system's counters saw beside a block, where it was too much."""

    kind: InterferenceKind
    amount: Figure

    @property
    def figure(self) -> str:
        """The amount: `43 %`, or `2` of what is counted."""
        return f"{100 * self.amount:.0f} %" if self.kind in INTERFERENCE_SHARES else f"{self.amount:,.0f}"

    def __str__(self) -> str:
        return f"{self.kind} {self.figure}"

"""A simulator of noisy machines, for tests of the gate: no clock, no process, every number from a seed.

The logarithm of a turn's time is a sum of what the arm does, of what this process happens to be (where its memory
lies), of the machine's drift, which all arms alive share, and of noise within the process; spikes hit some turns.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from cnnbench.gate.verdict import ArmComparison, ArmName, Paired, Stage
from cnnbench.suite.case import Case, ModelSpec

ROUNDS = 20


@dataclass(frozen=True)
class Machine:
    """Standard deviations, of logarithms; spikes have a rate and a mean size."""

    process: float
    within: float
    drift: float
    spikes: float
    spike_size: float = 0.5
    favours_first: float = 0.0
    """By how much the arm that is started first is faster."""
    step: float = 0.9
    """How much of the drift a turn inherits from the one before it."""


QUIET = Machine(process=0.003, within=0.01, drift=0.003, spikes=0.0)
TYPICAL = Machine(process=0.008, within=0.03, drift=0.02, spikes=0.03)
BAD = Machine(process=0.025, within=0.06, drift=0.06, spikes=0.06)


@dataclass
class Simulated:
    """A measurer of simulated launches; `seconds` goes on as a clock would."""

    machine: Machine
    seed: int
    slowdowns: dict[str, float] = field(default_factory=dict)
    """Of head, by case: logarithms."""
    null_bias: float = 0.0
    pair_s: float = 4.0
    seconds: float = 0.0
    started: list[tuple[str, str, tuple[str, ...]]] = field(default_factory=list)
    """Case, stage and order of every pair."""

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def check(self, comparison: ArmComparison) -> Paired:
        return Paired((), {})

    def measure(
        self, comparison: ArmComparison, stage: Stage, order: Sequence[ArmName], number: int, scale: float
    ) -> Paired:
        self.started.append((comparison.name, stage, tuple(order)))
        self.seconds += self.pair_s * len(order) / 2
        m, rng = self.machine, self.rng
        shape = (len(order), ROUNDS)
        drift = np.empty(len(order) * ROUNDS)
        state = 0.0
        for block, shock in enumerate(rng.normal(0, m.drift * np.sqrt(1 - m.step**2), len(drift))):
            state = m.step * state + shock
            drift[block] = state
        times = rng.normal(0, m.process, (len(order), 1)) + rng.normal(0, m.within, shape)
        times += drift.reshape(ROUNDS, len(order)).T
        times += rng.exponential(m.spike_size, shape) * (rng.random(shape) < m.spikes)
        effects = {"head": self.slowdowns.get(comparison.name, 0.0), "null": self.null_bias}
        for place, arm in enumerate(order):
            times[place] += effects.get(arm, 0.0) + m.favours_first * (place > 0)
        base = times[list(order).index("base")]
        logs = {arm: float(np.median(times[place] - base)) for place, arm in enumerate(order) if arm != "base"}
        return Paired(tuple(order), logs)  # type: ignore[arg-type]

    def clock(self) -> float:
        """Seconds so far."""
        return self.seconds

    def doing(self, what: str, left_s: float) -> None:
        """Nobody watches."""


def comparisons(count: int) -> list[ArmComparison]:
    """So many cases, told apart by their batch."""
    cases = [
        Case(spec=ModelSpec(model="lenet5"), workload="inference", runtime="ort", batch=number + 1)
        for number in range(count)
    ]
    return [ArmComparison(case, case, 1.0) for case in cases]

"""Simulated histories: commits whose time changes at known places, gates of each against the one before it, and runs.

Gates are the gate's own procedure on the simulated machines of tests/noise.py. A run's times are those of one process
on the same machine, which beside the noise of a gate's launches has the state of the machine on that day: `wander` is
its standard deviation, of logarithms, half of which (in variance) the next day inherits.
"""

import itertools
from dataclasses import dataclass, field
from math import log1p, sqrt

import numpy as np
from numpy.typing import NDArray

from cnnbench.analysis.chain import Edge
from cnnbench.analysis.paired import Rule
from cnnbench.gate.procedure import run_gate
from tests.noise import BAD, QUIET, ROUNDS, TYPICAL, Machine, Simulated, comparisons

MACHINES: dict[str, tuple[Machine, float]] = {
    "quiet": (QUIET, 0.01),
    "typical": (TYPICAL, 0.06),
    "bad": (BAD, 0.20),
}
"""Noise of launches, and the wandering of separate runs."""
LINK_EVERY = 20
BUDGET_S = 600.0


@dataclass
class Gated:
    """A gate of the history."""

    base: int
    head: int
    log: float
    pair_sd: float
    pairs: int
    verdict: str

    def edge(self, variance: float) -> Edge:
        """With the variance of one pair."""
        return Edge(self.base, self.head, self.log, variance / self.pairs)


@dataclass
class SimulatedHistory:
    """Of commits 0 to `commits` - 1."""

    steps: dict[int, float]
    """Logarithm of the time after the commit over that before it."""
    gates: list[Gated] = field(default_factory=list)
    runs: list[NDArray[np.float64]] = field(default_factory=list)
    """Seconds of a run's samples, by commit."""


def changes(rng: np.random.Generator, commits: int, count: int) -> dict[int, float]:
    """Of 3 to 10 %, two of three slower, at least 20 commits apart and from the ends."""
    while True:
        places = sorted(int(place) for place in rng.integers(20, commits - 40, count))
        if all(later - earlier >= 20 for earlier, later in itertools.pairwise(places)):
            break
    return {place: (1 if rng.random() < 2 / 3 else -1) * log1p(rng.uniform(0.03, 0.10)) for place in places}


def gated(machine: Machine, seed: int, effect: float, base: int, head: int) -> Gated:
    """One gate of one case, whose head's time has so much more, as a logarithm."""
    (comparison,) = comparisons(1)
    simulated = Simulated(machine, seed, {comparison.name: effect})
    result = run_gate([comparison], simulated, simulated, Rule(), BUDGET_S, seed, simulated.clock)
    (case,) = result.cases
    ratio = case.ratio
    return Gated(base, head, float(np.log(ratio.ratio)), ratio.sd or 0.0, ratio.pairs, case.verdict)


def simulate(machine_name: str, seed: int, commits: int, steps: dict[int, float]) -> SimulatedHistory:
    """A gate of each commit against the one before, each twentieth against the first too, and a run of each."""
    machine, wander = MACHINES[machine_name]
    rng = np.random.default_rng(seed)
    level = np.cumsum([steps.get(commit, 0.0) for commit in range(commits)])
    history = SimulatedHistory(steps)
    state = rng.normal(0, wander)
    for commit in range(commits):
        bases = ([commit - 1] if commit else []) + ([0] if commit > 1 and commit % LINK_EVERY == 0 else [])
        for base in bases:
            effect = float(level[commit] - level[base])
            history.gates.append(gated(machine, int(rng.integers(2**31)), effect, base, commit))
        state = sqrt(0.5) * state + rng.normal(0, wander * sqrt(0.5))
        samples = level[commit] + state + rng.normal(0, machine.process) + rng.normal(0, machine.within, ROUNDS)
        samples += rng.exponential(machine.spike_size, ROUNDS) * (rng.random(ROUNDS) < machine.spikes)
        history.runs.append(np.exp(samples))
    return history

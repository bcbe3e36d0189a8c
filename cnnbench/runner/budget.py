"""How a run's time is spent: what is left to do, how long that takes, and each race's share of the budget."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from statistics import mean

from cnnbench.networks import registry
from cnnbench.runner.interleave import MIN_ROUNDS
from cnnbench.suite.case import Case, ModelSpec

FIRST_GUESS_START_S = 3.0
FIRST_GUESS_LAYER_S = 0.11
BUILD_OVERHEAD_LAYERS = 20
"""What building an artifact or a training step takes beside its layers, in layers."""
UNKNOWN_LAYERS = 100
"""Of a model without a closed form."""
FIRST_GUESS_MACS_PER_S = 20e9
MIN_MACS = 50e6
"""Calls with less work than this are mostly overhead and tell nothing of the rate."""
TRAINING_FACTOR = 3
"""A training step is about three forward passes: its own, and one for each of the two gradients."""
WARMUP_CALLS = 7
MIN_SCALE = 0.25
"""Cases are not measured with less than this share of their own budgets; rather, the last ones are left for later."""
OVERDRAFT = 0.1
"""The share of the budget by which it may be overdrawn, rather than leave cases without any measurement."""


@dataclass
class BudgetEstimator:
    """Learns from each finished race and build how long the rest will take."""

    budget_s: float
    case_budgets_s: dict[str, float]
    clock_s: Callable[[], float] = time.monotonic
    _starts_s: list[float] = field(default_factory=list)
    _built_layers: int = 0
    _built_s: float = 0.0
    _macs: float = 0.0
    _macs_s: float = 0.0

    def __post_init__(self) -> None:
        self._began = self.clock_s()

    @property
    def elapsed_s(self) -> float:
        """Since the run began."""
        return self.clock_s() - self._began

    @property
    def budget_left_s(self) -> float:
        """Until the budget is spent; below zero when it is overdrawn."""
        return self.budget_s - self.elapsed_s

    @property
    def is_over(self) -> bool:
        """Whether not even a case's first launch may begin any more."""
        return self.budget_left_s <= -OVERDRAFT * self.budget_s

    def built(self, spec: ModelSpec, seconds: float) -> None:
        """An artifact or a training step took so long."""
        self._built_layers += _layers_to_build(spec)
        self._built_s += seconds

    def group_measured(
        self, cases: Sequence[Case], seconds: float, timed_s: float, calls_s: Sequence[float | None]
    ) -> None:
        """A race took so long, of which so much inside timed calls; a call of each case took about so long."""
        self._starts_s.append((seconds - timed_s) / len(cases))
        for case, call_s in zip(cases, calls_s, strict=True):
            if call_s and (work := _macs(case)) >= MIN_MACS:
                self._macs += work
                self._macs_s += call_s

    def group_s(self, cases: Sequence[Case], scale: float = 1.0) -> float:
        """How long a race is expected to take when its budget is scaled."""
        start_s = mean(self._starts_s) if self._starts_s else FIRST_GUESS_START_S
        return sum(start_s + max(self.case_budgets_s[case.id] * scale, self._lower_bound_s(case)) for case in cases)

    def left_s(self, groups: Sequence[Sequence[Case]], builds: Sequence[ModelSpec], scale: float = 1.0) -> float:
        """How long races, and building something of these models, are expected to take.

        Builds are foreseen by their layers: suites begin with small models, whose builds tell little of the last ones'.
        """
        layer_s = self._built_s / self._built_layers if self._built_layers else FIRST_GUESS_LAYER_S
        return layer_s * sum(map(_layers_to_build, builds)) + sum(self.group_s(group, scale) for group in groups)

    def scale(self, groups: Sequence[Sequence[Case]], builds: Sequence[ModelSpec]) -> float:
        """The share of their own budgets that the races left may have, for the run to end within its budget."""
        full, least = self.left_s(groups, builds), self.left_s(groups, builds, MIN_SCALE)
        if full <= self.budget_left_s or full <= least:
            return 1.0
        share = (self.budget_left_s - least) / (full - least)
        return min(max(MIN_SCALE + share * (1 - MIN_SCALE), MIN_SCALE), 1.0)

    def _lower_bound_s(self, case: Case) -> float:
        """What the fewest rounds and the warm-up take, however small the budget, judging by the case's MACs.

        The rate is that of all work so far together.
        """
        rate = self._macs / self._macs_s if self._macs_s else FIRST_GUESS_MACS_PER_S
        return (MIN_ROUNDS + WARMUP_CALLS) * _macs(case) / rate


@cache
def _layers_to_build(spec: ModelSpec) -> int:
    architecture = registry.find(spec.model)
    layers = len(architecture.network(spec.image_size, spec.classes).layers) if architecture else UNKNOWN_LAYERS
    return BUILD_OVERHEAD_LAYERS + layers


@cache
def _macs(case: Case) -> float:
    """MACs of one call; 0 where there is no closed form."""
    architecture = registry.find(case.spec.model)
    if architecture is None:
        return 0.0
    macs = architecture.network(case.spec.image_size, case.spec.classes).macs * case.batch
    return float(macs * (TRAINING_FACTOR if case.workload == "training" else 1))

"""How a run's time is spent: what is left to do, how long that takes, and what each group may take of it."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from statistics import mean

from cnnbench.networks.training import TRAINING_FACTOR
from cnnbench.runner import machine
from cnnbench.runner.interleave import MIN_ROUNDS, NARROW_HALF_WIDTH, WARMUP_LIMIT_S, Allowance, Outcome
from cnnbench.runner.plan import Group, layers_to_build
from cnnbench.suite.case import Case, ModelSpec

FIRST_GUESS_START_S = 2.0
"""Importing and loading of one case."""
FIRST_GUESS_WARMUP_S = 1.0
FIRST_GUESS_LAYER_S = 0.11
FIRST_GUESS_MACS_PER_S = 10e9
"""Of one core."""
MAX_SLOWER = 10
"""Than the first guess: what a build says beyond it comes from a machine that swapped meanwhile."""
LITTLE_S = 0.1
"""Calls of a launch that take less together say little of how long those of larger networks take."""
WARMUP_CALLS, PROOF_CALLS = 7, 4
REFERENCE_IMAGES = 18
"""A reference is of six images in float32 and in float64, which takes twice as long, on one thread."""
MIN_WARMUP_S = 0.1
OVERDRAFT = 0.1
"""The share of the budget by which first launches may overdraw it, rather than leave cases without a measurement."""


@dataclass
class _Learned:
    """What launches in one runtime on one device took so far."""

    starts_s: list[float] = field(default_factory=list)
    """Without the calls of the proof."""
    warmups_s: list[float] = field(default_factory=list)
    """As long as they would have been with the whole limit."""
    calls_s: float = 0.0
    """Of one call of each launch."""
    guesses_s: float = 0.0
    """What they would have taken on this machine at the speed of its references."""

    @property
    def ratio(self) -> float:
        """How long a call takes, for each second of the guess; large networks count most."""
        return (LITTLE_S + self.calls_s) / (LITTLE_S + self.guesses_s)


@dataclass(frozen=True)
class _Launched:
    """What is known of a group that was launched."""

    launches: int
    seconds: float
    """Of the last launch."""
    half_width: float | None
    """Of the widest interval; None if there is nothing to be made sharper."""


class Budget:
    """Learns from each build and launch how long the rest takes, and shares out what is left."""

    def __init__(
        self,
        budget_s: float,
        case_budgets_s: Mapping[str, float],
        launches: int = 1,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`launches` is how often each group is launched at most."""
        self.budget_s = budget_s
        self.builds: list[ModelSpec] = []
        """Of what is left to be built, the models."""
        self.first: list[Group] = []
        """Groups that were not launched yet."""
        self._case_budgets_s, self._max_launches, self._clock_s = case_budgets_s, launches, clock_s
        self._began_s = self._current_began_s = clock_s()
        self._current: Group | None = None
        self._share = 1.0
        self._references_s: dict[ModelSpec, float] = {}
        """By model that is built: of an image, on one core."""
        self._learned: dict[tuple[str, str, str], _Learned] = {}
        """By device, runtime and workload."""
        self._launched: dict[Group, _Launched] = {}
        self._built_layers, self._built_s = 0, 0.0
        self._cores = machine.usable_threads()

    @property
    def left_s(self) -> float:
        """Until the budget is spent; below zero when it is overdrawn."""
        return self.budget_s - (self._clock_s() - self._began_s)

    @property
    def until_overdrawn_s(self) -> float:
        """Until the budget is overdrawn by as much as it may be."""
        return self.left_s + OVERDRAFT * self.budget_s

    @property
    def is_over(self) -> bool:
        """Whether not even a group's first launch may begin any more."""
        return self.until_overdrawn_s <= 0

    def fits(self, group: Group) -> bool:
        """Whether a first launch of a group ends before the budget is overdrawn, as far as earlier ones tell."""
        is_known = all(_kind(case) in self._learned for case in group)
        return not is_known or self._sum_s([group], 0.0) <= self.until_overdrawn_s

    def built(self, spec: ModelSpec, seconds: float) -> None:
        """An artifact or a training step took so long."""
        self._built_layers += layers_to_build(spec)
        self._built_s += seconds

    def learn_references(self, references_s: Mapping[ModelSpec, float]) -> None:
        """Of models that are built, what the reference outputs took."""
        for spec, seconds in references_s.items():
            most_s = MAX_SLOWER * _macs(spec) / FIRST_GUESS_MACS_PER_S or math.inf
            self._references_s[spec] = min(seconds / REFERENCE_IMAGES, most_s)

    def has_time_for(self, groups: Sequence[Group], *, alone: bool = False) -> bool:
        """Whether these groups can be launched in the least time that it takes, after all builds or without them."""
        return (0.0 if alone else self._builds_s) + self._sum_s(groups, 0.0) < self.left_s

    def allowance(self, group: Group) -> Allowance:
        """What the next launch of a group may take: all have the same share of what they should have."""
        self._current, self._current_began_s = group, self._clock_s()
        sampling_s = self._case_budgets_s[group[0].id]
        if group not in self.first:
            self._share = 1.0
            return Allowance(sampling_s, whole_s=max(self.left_s, 0.0))
        self._share = share = self._fair_share()
        own_s, others_s = self._sum_s([group], share), self._sum_s([g for g in self.first if g != group], share)
        left_s, needed_s = max(self.left_s, 0.0), own_s + others_s
        whole_s = max(left_s - others_s, own_s * min(1.0, left_s / needed_s) if needed_s else 0.0)
        warmup_s = max(MIN_WARMUP_S, share * WARMUP_LIMIT_S)
        return Allowance(share * sampling_s, warmup_s=warmup_s, whole_s=whole_s)

    def measured(self, group: Group, outcomes: Sequence[Outcome], half_width: float | None) -> None:
        """A launch of a group, begun with its allowance, has ended; `half_width` is None if it failed."""
        seconds = self._clock_s() - self._current_began_s
        self._current = None
        self.first = [other for other in self.first if other != group]
        before = self._launched.get(group, _Launched(0, 0.0, None))
        self._launched[group] = _Launched(before.launches + 1, seconds, half_width)
        launches = [outcome.launch for outcome in outcomes if outcome.launch is not None]
        if len(launches) < len(outcomes) or group[0].workload == "serving":  # one that hung tells nothing of the others
            return
        calls = [launch.calls_per_sample * sum(len(block.totals_s()) for block in launch.blocks) for launch in launches]
        calls_s = [launch.timed_s / max(1, count) for launch, count in zip(launches, calls, strict=True)]
        spent_s = sum(launch.warmup_s + launch.timed_s for launch in launches) + PROOF_CALLS * sum(calls_s)
        for outcome, launch, call_s in zip(outcomes, launches, calls_s, strict=True):
            learned = self._learned.setdefault(_kind(outcome.case), _Learned())
            learned.starts_s.append(max(0.0, seconds - spent_s) / len(group))
            whole_warmup_s = launch.warmup_s / max(self._share, MIN_WARMUP_S / WARMUP_LIMIT_S)
            learned.warmups_s.append(min(whole_warmup_s, WARMUP_LIMIT_S))
            learned.calls_s += call_s
            learned.guesses_s += self._guess_s(outcome.case)

    def to_repeat(self) -> Group | None:
        """The group with the widest interval, of those that are worth another launch and fit into what is left."""
        open_ = {
            group: known.half_width
            for group, known in self._launched.items()
            if known.half_width is not None and self._further_launches(group) > 0 and known.seconds < self.left_s
        }
        return max(open_, key=lambda group: open_[group], default=None)

    def remaining_s(self) -> float:
        """How long the run still takes: builds, first launches, and further ones of all while the budget lasts."""
        needed_s = self._builds_s + self._sum_s(self.first, self._fair_share(self._builds_s))
        again_s = sum(known.seconds * self._further_launches(group) for group, known in self._launched.items())
        again_s += sum(self._sum_s([group], 1.0) * self._further_launches(group) for group in self.first)
        if self._current is not None:  # in part it is done
            done_s = min(self._clock_s() - self._current_began_s, self._sum_s([self._current], self._share))
            needed_s -= done_s if self._current in self.first else 0.0
            again_s -= done_s if self._current not in self.first else 0.0
        unused_s = min((known.seconds for known in self._launched.values()), default=0.0) / 2  # where no launch fits
        remaining_s = needed_s + max(0.0, min(again_s, self.left_s - needed_s - unused_s))
        return max(0.0, min(remaining_s, self.until_overdrawn_s))

    @property
    def _builds_s(self) -> float:
        cores = max(1, min(self._cores, len(self.builds)))
        layer_s = self._built_s / self._built_layers if self._built_layers else FIRST_GUESS_LAYER_S
        return layer_s * sum(map(layers_to_build, self.builds)) / cores

    def _fair_share(self, before_s: float = 0.0) -> float:
        """Of warm-ups and case budgets, the share that all first launches may have, after what comes before them."""
        full_s, least_s, left_s = self._sum_s(self.first, 1.0), self._sum_s(self.first, 0.0), self.left_s - before_s
        if full_s <= left_s or full_s <= least_s:
            return 1.0
        return max(0.0, (left_s - least_s) / (full_s - least_s))

    def _further_launches(self, group: Group) -> float:
        """How many more a group is expected to have."""
        if (known := self._launched.get(group)) is not None:
            if not known.half_width:
                return 0.0
            if known.launches >= 2:
                return max(0, self._max_launches - known.launches) * (known.half_width > NARROW_HALF_WIDTH)
        twice = [other.half_width for other in self._launched.values() if other.launches >= 2]
        widths = [half_width for half_width in twice if half_width is not None]
        wide_share = mean(half_width > NARROW_HALF_WIDTH for half_width in widths) if widths else 1.0
        return min(1, self._max_launches - 1) + wide_share * max(0, self._max_launches - 2)

    def _sum_s(self, groups: Sequence[Group], share: float) -> float:
        """How long first launches are expected to take with this share."""
        return sum(self._case_s(case, share) for group in groups for case in group)

    def _case_s(self, case: Case, share: float) -> float:
        learned = self._learned.get(_kind(case), _Learned())
        start_s = mean(learned.starts_s) if learned.starts_s else FIRST_GUESS_START_S
        warmup_s = mean(learned.warmups_s) if learned.warmups_s else FIRST_GUESS_WARMUP_S
        call_s = learned.ratio * self._guess_s(case)
        least_s = (MIN_ROUNDS + WARMUP_CALLS) * call_s
        return start_s + PROOF_CALLS * call_s + max(share * (warmup_s + self._case_budgets_s[case.id]), least_s)

    def _guess_s(self, case: Case) -> float:
        """How long a call takes at the speed of the model's own reference, or of the others'."""
        passes = TRAINING_FACTOR if case.workload == "training" else 1
        image_s = self._references_s.get(case.spec)
        if image_s is None:
            guess_s = sum(_macs(spec) for spec in self._references_s) / FIRST_GUESS_MACS_PER_S
            faster = min(1.0, sum(self._references_s.values()) / guess_s) if guess_s else 1.0
            image_s = faster * _macs(case.spec) / FIRST_GUESS_MACS_PER_S
        return passes * case.batch * image_s / (case.threads or self._cores)


def _kind(case: Case) -> tuple[str, str, str]:
    return case.device, case.runtime, case.workload


@cache
def _macs(spec: ModelSpec) -> float:
    """Of one image; 0 where there is no closed form."""
    return float(network.macs) if (network := spec.closed_form) else 0.0

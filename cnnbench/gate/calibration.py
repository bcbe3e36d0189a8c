"""Calibration: each case's noise on this machine, from pairs of the same code, and the gate's detection power.

There is one file per machine, named by its fingerprint. Each calibration adds a session, so that the noise between
sessions is known too.
"""

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import fmean, median, stdev

from cnnbench.analysis.paired import Rule, pairs_needed, smallest_effect
from cnnbench.errors import InputError
from cnnbench.gate.procedure import run_gate
from cnnbench.gate.verdict import ArmComparison, ArmName, Paired, Stage
from cnnbench.records import files
from cnnbench.records.cache import cache_folder
from cnnbench.records.environment import Environment
from cnnbench.records.json_object import read_model
from cnnbench.suite.case import Frozen

UPPER = 0.95
"""Confidence of the upper limit of a standard deviation."""
MIN_PAIRS = 6
MIN_SESSIONS = 3
"""Needed to estimate the noise between sessions."""
SIMULATED_GATES = 200
SLOWDOWNS = (0.03, 0.05, 0.10)
NO_LIMIT_S = 1e9


class Session(Frozen):
    """Pairs of the same code from one calibration of one case."""

    started: str
    logs: list[float]
    """Logarithm of each pair's ratio, in time order."""
    launches_s: list[float]
    """Median call of each launch."""


class Calibration(Frozen):
    """All sessions of one machine, by case."""

    fingerprint: str
    machine: str
    cases: dict[str, list[Session]]

    def with_sessions(self, sessions: Mapping[str, Session]) -> "Calibration":
        """With a new session of each case."""
        cases = {name: [*self.cases.get(name, []), session] for name, session in sessions.items()}
        return self.model_copy(update={"cases": {**self.cases, **cases}})


@dataclass(frozen=True)
class Noise:
    """Noise of one case; standard deviations are of logarithms."""

    pairs: int
    pair_sd: float
    pair_sd_upper: float
    """Upper limit of `pair_sd` at 95 %."""
    launch_sd: float
    """Between unpaired launches of a session."""
    session_sd: float | None
    """Between medians of sessions; None for fewer than three."""
    sessions: int

    def smallest_margin(self, pairs: int) -> float:
        """The smallest change that this many pairs detect."""
        return math.expm1(smallest_effect(self.pair_sd_upper, pairs))


def file_of(environment: Environment) -> Path:
    """A machine's default calibration file."""
    return cache_folder() / "calibrations" / f"{environment.fingerprint}.json"


def read_calibration(file: Path) -> Calibration | None:
    """A calibration; None if there is none. Raises RunFolderError."""
    return read_model(file, Calibration, "expected a calibration, as `cnnbench calibrate` writes it; delete the file")


def write_calibration(file: Path, calibration: Calibration) -> None:
    """Write a calibration."""
    file.parent.mkdir(parents=True, exist_ok=True)
    files.write(file, json.dumps(calibration.model_dump(), indent=1))


def empty(environment: Environment) -> Calibration:
    """A machine's calibration without sessions."""
    return Calibration(fingerprint=environment.fingerprint, machine=environment.label, cases={})


def session_of(pairs: Sequence[Paired]) -> Session:
    """A session that ends now, from pairs of the same code."""
    return Session(
        started=datetime.now().astimezone().isoformat(timespec="seconds"),
        logs=[pair.logs["head"] for pair in pairs if "head" in pair.logs],
        launches_s=[call_s for pair in pairs for call_s in pair.call_s.values()],
    )


def noise_of(sessions: Sequence[Session]) -> Noise | None:
    """A case's noise; None if there are too few pairs."""
    from scipy.stats import chi2

    logs = [log for session in sessions for log in session.logs]
    if len(logs) < MIN_PAIRS:
        return None
    pair_sd = math.sqrt(fmean(log**2 for log in logs))  # the same code: the mean is known to be zero
    centres = [math.log(median(session.launches_s)) for session in sessions]
    within = [
        math.log(call_s) - centre
        for session, centre in zip(sessions, centres, strict=True)
        for call_s in session.launches_s
    ]
    return Noise(
        pairs=len(logs),
        pair_sd=pair_sd,
        pair_sd_upper=pair_sd * math.sqrt(len(logs) / float(chi2.ppf(1 - UPPER, len(logs)))),
        launch_sd=stdev(within),
        session_sd=stdev(centres) if len(centres) >= MIN_SESSIONS else None,
        sessions=len(sessions),
    )


def check_margin(calibration: Calibration, comparisons: Sequence[ArmComparison], rule: Rule) -> None:
    """Raises InputError if noise hides the margin, with the number of pairs that would be needed."""
    hidden = []
    for comparison in comparisons:
        noise = noise_of(calibration.cases.get(comparison.name, []))
        if noise and rule.margin < (seen := noise.smallest_margin(rule.max_confirm_pairs)):
            needed = pairs_needed(noise.pair_sd_upper, math.log1p(rule.margin)) or "more than 1000"
            hidden.append(
                f"{comparison.name}: {rule.max_confirm_pairs} pairs detect {seen:.2%}; "
                f"{rule.margin:.2%} would need {needed} pairs"
            )
    if hidden:
        raise InputError(
            f"--margin: expected one above this machine's noise; got {rule.margin:.2%}\n  " + "\n  ".join(hidden)
        )


@dataclass
class Replayed:
    """A simulated measurer, which draws pairs from a calibration with random signs; also its clock and observer."""

    logs: Mapping[str, Sequence[float]]
    rng: random.Random
    slowdown: float = 0.0
    slowed: str = ""
    pairs: int = 0

    def check(self, comparison: ArmComparison) -> Paired:
        """Every case can be measured."""
        return Paired((), {})

    def measure(
        self, comparison: ArmComparison, stage: Stage, order: Sequence[ArmName], number: int, scale: float
    ) -> Paired:
        """A pair drawn from the calibration."""
        self.pairs += 1
        drawn, choice = self.logs[comparison.name], self.rng.choice
        logs: dict[ArmName, float] = {arm: choice((1, -1)) * choice(drawn) for arm in order if arm != "base"}
        if comparison.name == self.slowed:
            logs["head"] += math.log1p(self.slowdown)
        return Paired(tuple(order), logs)

    def clock(self) -> float:
        """One second per pair."""
        return float(self.pairs)

    def doing(self, what: str, left_s: float) -> None:
        """No progress is shown."""


@dataclass(frozen=True)
class DetectionPower:
    """Rates of simulated gates on this machine's noise."""

    gates: int
    false_alarms: float
    """Share of gates that called a case slower though none was."""
    seen: dict[str, dict[float, float]] = field(default_factory=dict)
    """Share of gates that called a case slower, by case and slowdown."""


def detection_power_of(calibration: Calibration, comparisons: Sequence[ArmComparison], rule: Rule) -> DetectionPower:
    """Simulate gates on pairs drawn from the calibration, with and without slowdowns and no time limit."""
    logs = {
        comparison.name: [log for session in calibration.cases.get(comparison.name, []) for log in session.logs]
        for comparison in comparisons
    }
    known = [comparison for comparison in comparisons if len(logs[comparison.name]) >= MIN_PAIRS]
    rng = random.Random(0)

    def gates(count: int, chosen: Sequence[ArmComparison], slowed: str = "", slowdown: float = 0.0) -> list[bool]:
        found = []
        for _ in range(count):
            replayed = Replayed(logs, rng, slowdown, slowed)
            result = run_gate(chosen, replayed, replayed, rule, NO_LIMIT_S, rng.randrange(2**31), replayed.clock)
            found.append(result.count("slower") > 0)
        return found

    alarms = fmean(gates(SIMULATED_GATES, known)) if known else 0.0
    seen = {
        each.name: {slow: fmean(gates(SIMULATED_GATES // 4, [each], each.name, slow)) for slow in SLOWDOWNS}
        for each in known
    }
    return DetectionPower(SIMULATED_GATES, alarms, seen)

"""Head against a stored run of the same machine, for when base cannot be built. Weaker than a gate of two arms.

Times measured in different sessions differ by the machine's state, which no number of launches averages out. Its size
is known from calibrations made at different times only; with fewer than three of them no case is called slower.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from cnnbench.analysis.paired import CONFIDENCE, Rule, Verdict, holm
from cnnbench.analysis.serving import rate_at_bound
from cnnbench.analysis.stats import student_quantile, time_estimate
from cnnbench.analysis.status import rechecked
from cnnbench.errors import CnnbenchError, RunFolderError
from cnnbench.gate.calibration import MIN_SESSIONS, Calibration, noise_of
from cnnbench.gate.verdict import Paired
from cnnbench.records.environment import Environment, differences
from cnnbench.records.record import MEASURED
from cnnbench.records.run_folder import Run, read_run


class BaselineError(CnnbenchError):
    """A stored run that cannot be a baseline here."""

    exit_code = 3


@dataclass(frozen=True)
class BaselineResult:
    """One case against its stored launches."""

    name: str
    verdict: Verdict
    reason: str = ""
    ratio: float | None = None
    """Median of head's launches over the median of the stored ones."""
    low: float | None = None
    high: float | None = None
    p: float = 1.0
    """One-sided p-value of `slower by at most the margin`."""


def read_baseline(folder: Path, environment: Environment) -> Run:
    """The stored run. Raises BaselineError if there is none, or it is another machine's."""
    try:
        run = rechecked(read_run(folder))
    except RunFolderError as error:
        raise BaselineError(f"--baseline: {error}") from None
    if run.environment is None:
        raise BaselineError(f"--baseline: {folder}: it does not say which machine it was measured on")
    if found := differences(run.environment, environment):
        why = f"measured on another machine, so nothing is compared; {'; '.join(found)}"
        raise BaselineError(f"--baseline: {folder}: {why}; measure base here, or use --base")
    return run


def compare_with_baseline(
    run: Run, head: Mapping[str, Sequence[Paired]], calibration: Calibration | None, rule: Rule
) -> list[BaselineResult]:
    """Every case of head against the stored run, p-values adjusted for all."""
    found = [_compare(name, run, pairs, calibration, rule) for name, pairs in head.items()]
    adjusted = holm([each.p for each in found])
    return [
        replace(each, verdict="slower") if p < rule.alpha else each for each, p in zip(found, adjusted, strict=True)
    ]


def _compare(
    name: str, run: Run, pairs: Sequence[Paired], calibration: Calibration | None, rule: Rule
) -> BaselineResult:
    record = run.records.get(name)
    if broken := next((pair.problem for pair in pairs if pair.problem), ""):
        return BaselineResult(name, "missing" if any(pair.missing for pair in pairs) else "wrong", broken)
    if record is None or record.measurement is None or record.status not in MEASURED:
        status = f"its record there is {record.status}" if record else "it has no record there"
        return BaselineResult(name, "missing", f"no baseline: {status}")
    if record.case.workload == "serving":
        rates = [rate_at_bound(launch.serving) for launch in record.launches if launch.serving]
        then = [1 / rate for rate in rates if rate is not None]
    else:
        then = [time_estimate(blocks).value for blocks in record.measurement.times() if blocks]
    if not then:
        return BaselineResult(name, "missing", "no baseline: its record there has no samples")
    now = [call_s for pair in pairs for call_s in pair.call_s.values()]
    if not now:
        return BaselineResult(
            name, "missing", next((pair.lost for pair in pairs if pair.lost), "no launch was measured")
        )
    ratio = median(now) / median(then)
    noise = noise_of(calibration.cases.get(name, [])) if calibration else None
    if noise is None or noise.session_sd is None:
        sessions = noise.sessions if noise else 0
        reason = f"{sessions} of {MIN_SESSIONS} calibrations at different times, so noise between sessions is unknown"
        return BaselineResult(name, "inconclusive", reason, ratio)
    error = math.sqrt(2 * noise.session_sd**2 + noise.launch_sd**2 * (1 / len(then) + 1 / len(now)))
    return _tested(name, ratio, error, noise.sessions - 1, rule)


def _tested(name: str, ratio: float, error: float, degrees: int, rule: Rule) -> BaselineResult:
    """By Student's t, with degrees of freedom from the number of sessions, of which there are fewer than launches."""
    from scipy.special import stdtr

    half = student_quantile((1 + CONFIDENCE) / 2, degrees) * error
    centre = math.log(ratio)
    low, high = math.exp(centre - half), math.exp(centre + half)
    p = float(stdtr(degrees, -(centre - math.log1p(rule.margin)) / error)) if error else float(ratio <= 1 + rule.margin)
    verdict: Verdict = "slower-small" if low > 1 else "inconclusive"
    if low > 1 / (1 + rule.margin) and high < 1 + rule.margin:
        verdict = "same"
    visible = math.expm1(math.log1p(rule.margin) + half)
    return BaselineResult(name, verdict, f"a stored baseline: it could detect +{visible:.0%}", ratio, low, high, p)

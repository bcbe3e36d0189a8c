"""What a case's launches are worth: a status, with every reason."""

from collections.abc import Iterable, Sequence
from statistics import median

from cnnbench.analysis.stats import NOISY_HALF_WIDTH, launch_estimate, trend, two_modes
from cnnbench.records.record import MIN_TURNS, ArtifactFacts, Launch, Measurement, Parity, Status

MAX_DENORMALS = 0.001
"""Share of a layer's activations that may be denormal numbers, whose arithmetic is many times slower on some CPUs."""


def status_of(
    launches: Sequence[Launch],
    parity: Iterable[Parity] = (),
    faults: Iterable[str] = (),
    errors: Sequence[str] = (),
    facts: ArtifactFacts | None = None,
) -> tuple[Status, list[str]]:
    """The status and its reasons; `errors` are why launches failed, `faults` what ran otherwise than asked.

    A launch that failed takes nothing from those that did not.
    """
    if errors and not launches:
        return "failed", list(errors)
    wrong = list(dict.fromkeys(_parity_reason(each) for each in parity if not each.passed))
    wrong += list(dict.fromkeys(faults))
    if facts is not None and facts.denormal_share > MAX_DENORMALS:
        wrong.append(f"{facts.denormal_share:.1%} of a layer's activations are denormal numbers")
    if wrong or not launches:
        return "invalid", wrong
    noise = [f"a launch failed: {error}" for error in errors]
    noise += noise_reasons(Measurement(launches=list(launches)))
    return ("noisy", noise) if noise else ("ok", [])


def noise_reasons(measurement: Measurement) -> list[str]:
    """Why the times cannot be told sharply."""
    times = measurement.times()
    if not any(times):
        return ["nothing was measured"]
    found = []
    if launch_estimate(times).half_width > NOISY_HALF_WIDTH:
        found.append(f"the interval of the median is wider than {NOISY_HALF_WIDTH:.0%} to one side")
    found += [_interference(launch) for launch in measurement.launches if _has_interference(launch)][:1]
    launches = [[median(block) for block in blocks] for blocks in times]
    changes = [trend(*launches), *map(trend, launches)]
    most = max((change for change in changes if change is not None), key=abs, default=0.0)
    if abs(most) > NOISY_HALF_WIDTH:
        found.append(f"the times {'rose' if most > 0 else 'fell'} by {abs(most):.0%} from the first turn to the last")
    if modes := next((pair for blocks in launches if (pair := two_modes(blocks))), None):
        found.append(f"the times have two modes, {modes[1] / modes[0] - 1:.0%} apart")
    return found


def _has_interference(launch: Launch) -> bool:
    """Whether so many turns were disturbed that they had to be used all the same."""
    return any(block.interference for block in launch.usable())


def _interference(launch: Launch) -> str:
    clean = sum(not block.interference for block in launch.blocks)
    reasons = [reason for block in launch.blocks for reason in block.interference]
    return (
        f"only {clean} of {len(launch.blocks)} turns were undisturbed, and {MIN_TURNS} are needed; "
        f"in the first that was: {reasons[0]}"
    )


def _parity_reason(parity: Parity) -> str:
    error = "unknown, the output is not finite or misshapen" if parity.error is None else f"{parity.error:.1e}"
    return f"parity of {parity.what}: error {error}, limit {parity.limit:.1e} of the signal"

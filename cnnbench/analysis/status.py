"""What a case's launches are worth: a status, with every reason."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import median

from cnnbench.analysis.serving import service_of
from cnnbench.analysis.stats import NOISY_HALF_WIDTH, launch_estimate, trend, two_modes
from cnnbench.records.reason import Reason
from cnnbench.records.record import (
    MEASURED,
    MIN_BLOCKS,
    STATUSES,
    ArtifactFacts,
    Launch,
    Measurement,
    Parity,
    Record,
    Status,
)
from cnnbench.records.run_folder import Run

MIXED = "; an image's outputs depend on the others of its batch, and the reference is of each image alone"
"""Why outputs of a batch differ, where the model makes them do so."""
MAX_DENORMALS = 0.001
"""Share of a layer's activations that may be denormal numbers, whose arithmetic is many times slower on some CPUs."""


def status_of(
    launches: Sequence[Launch],
    parity: Iterable[Parity] = (),
    faults: Iterable[Reason] = (),
    errors: Sequence[Reason] = (),
    facts: ArtifactFacts | None = None,
) -> tuple[Status, list[Reason]]:
    """The status and its reasons; `errors` are why launches failed, `faults` what ran otherwise than asked.

    A launch that failed takes nothing from those that did not.
    """
    if errors and not launches:
        return "failed", list(errors)
    wrong = _wrong(launches, parity, faults, facts)
    if wrong or not launches:
        return "invalid", wrong
    noise = [Reason(code=error.code, detail=f"in another launch: {error.detail}") for error in errors]
    service = service_of(launches)
    noise += service.noise() if service else noise_reasons(Measurement(launches=list(launches)))
    return ("noisy", noise) if noise else ("ok", [])


def _wrong(
    launches: Sequence[Launch], parity: Iterable[Parity], faults: Iterable[Reason], facts: ArtifactFacts | None
) -> list[Reason]:
    """Why the case is invalid, whatever its times; nothing if it is not."""
    wrong, why = [], MIXED if facts is not None and facts.mixes_images else ""
    for each in parity:
        if not each.passed:
            error = "not finite or misshapen" if each.error is None else f"error {each.error:.1e}"
            wrong.append(Reason(code="parity", detail=f"{each.what}, {error}, limit {each.limit:.1e} (relative){why}"))
    service = service_of(launches)
    wrong = list(dict.fromkeys([*wrong, *faults, *(service.faults() if service else ())]))
    if facts is not None and facts.denormal_share > MAX_DENORMALS:
        wrong.append(Reason(code="denormals", detail=f"{facts.denormal_share:.1%}"))
    return wrong


def rechecked(run: Run) -> Run:
    """A run in which no record claims a better status than its own data support, whoever wrote it."""
    return replace(run, records={id_: _rechecked(record) for id_, record in run.records.items()})


def _rechecked(record: Record) -> Record:
    if record.status not in MEASURED:
        return record
    launches = record.measurement.launches if record.measurement else []
    faults = [fault for launch in launches if launch.ran for fault in launch.ran.faults(record.case)]
    if record.counts and record.counts.closed_form:
        faults += [Reason(code="counts", detail=disagreement) for disagreement in record.counts.disagreements[:1]]
    if record.status == "noisy" and launches and not _wrong(launches, record.parity, faults, record.artifact):
        return record
    status, reasons = status_of(launches, record.parity, faults, (), record.artifact)
    if STATUSES.index(status) <= STATUSES.index(record.status):
        return record
    claimed = Reason(code="claimed", detail=record.status)
    return record.model_copy(update={"status": status, "reasons": [claimed, *reasons]})


def noise_reasons(measurement: Measurement) -> list[Reason]:
    """Why the times cannot be told sharply."""
    launches = [[median(block) for block in blocks] for blocks in measurement.times()]
    if not any(launches):
        return [Reason(code="not-measured")]
    found = []
    if launch_estimate([[[each] for each in blocks] for blocks in launches]).half_width > NOISY_HALF_WIDTH:
        found.append(Reason(code="wide-interval"))
    # blocks with interference are used where there are too few others
    affected = (each for each in measurement.launches if any(block.interference for block in each.usable()))
    if launch := next(affected, None):
        clean = sum(not block.interference for block in launch.blocks)
        first = next(interference for block in launch.blocks for interference in block.interference)
        detail = f"{clean} of {len(launch.blocks)}, and {MIN_BLOCKS} are needed; in the first that was not: {first}"
        found.append(Reason(code="interference", detail=detail))
    changes = [trend(*launches), *(map(trend, launches) if len(launches) > 1 else [])]
    most = max((change for change in changes if change is not None), key=abs, default=0.0)
    if abs(most) > NOISY_HALF_WIDTH:
        found.append(Reason(code="drift", detail=f"{100 * most:+.0f} %"))
    if modes := next((pair for blocks in launches if (pair := two_modes(blocks))), None):
        found.append(Reason(code="two-modes", detail=f"{100 * (modes[1] / modes[0] - 1):.0f} % apart"))
    return found

"""What a search for a service's configuration found, in words and as a suite."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from cnnbench.analysis.tuning import Worth
from cnnbench.report.format import NONE, significant
from cnnbench.report.serving import NOT_MLPERF
from cnnbench.runner.tasks.tune_serving import Finalist, Tuned
from cnnbench.suite.case import NOISE, Case

MS = 1e3
UNITS = {"delay_ms": " ms"}
NAMES = {"delay_ms": "delay"}


def lines(found: Sequence[Tuned], suite: str, command: str) -> Iterator[str]:
    """The configuration, the runner-up and what each knob was worth, of every case; the command that repeats it."""
    for each in found:
        case, bound = each.case, significant(MS * each.bound_s)
        winner, *others = each.finalists
        yield f"{case.spec.label}, {case.backend}, p99 within {bound} ms: {_rate(winner)}"
        if winner.valid is None:
            lowest = NONE if winner.invalid is None else significant(winner.invalid)
            seen = f"the best p99 seen was {significant(MS * each.lowest_p99_s)} ms"
            yield f"  no tested rate keeps the bound, the lowest was {lowest} queries/s; {seen}; try a longer --budget"
        yield f"  configuration: {winner.knobs}"
        yield from (f"  runner-up: {other.knobs}: {_rate(other)}" for other in others)
        yield f"  each knob, by p90 at {significant(each.rate)} queries/s with the same arrivals:"
        yield from (f"    {_worth(worth)}" for worth in each.worths)
        yield f"  {each.tested} configurations were tested under load"
        yield from (f"  {count} were not: {why}" for why, count in each.excluded.items())
    yield NOT_MLPERF
    yield f"measure what was found, with all checks: {command} {suite}"


def _rate(finalist: Finalist) -> str:
    if finalist.valid is None:
        return "no VALID rate"
    upper = "?" if finalist.invalid is None else significant(finalist.invalid)
    p99 = "" if finalist.p99_s is None else f", p99 {significant(MS * finalist.p99_s)} ms"
    return f"[{significant(finalist.valid)}, {upper}) queries/s{p99}"


def _worth(worth: Worth) -> str:
    name, unit = NAMES.get(worth.knob, worth.knob), UNITS.get(worth.knob, "")
    own = f"{name} {worth.value:g}{unit}: {significant(MS * worth.p90_s)} ms"
    if worth.other is None or worth.other_p90_s is None:
        return f"{own}; no other value was tested"
    return f"{own}; {significant(MS * worth.other_p90_s)} ms at best with {name} {worth.other:g}{unit}"


def suite_of_tuned(found: Sequence[Tuned], budget_s: float) -> dict[str, Any]:
    """A suite file that serves each case in its configuration."""
    models = [_entry(each.tuned_case(each.finalists[0].knobs)) for each in found]
    return {
        "name": "tuned",
        "description": "The configurations that cnnbench tune-serving found.",
        "budget": f"{round(budget_s)}s",
        "defaults": {"workloads": ["serving"]},
        "models": models,
    }


def _entry(case: Case) -> dict[str, Any]:
    spec = case.spec
    entry: dict[str, Any] = {
        "model": spec.model,
        "image_size": "x".join(map(str, spec.image_size)) if spec.image_size else None,
        **spec.model_dump(include={"classes", "channels", "weights", "loss"}),
        "inputs": {name: list(shape) for name, shape in spec.inputs} if spec.inputs else None,
        "seed": spec.seed or None,
        "runtimes": [case.runtime],
        "devices": [case.device],
        "precisions": [case.precision],
        "calibration": None if case.calibration == NOISE else case.calibration,
        "layouts": [case.layout],
        "allocators": [case.allocator],
        "p99": f"{case.p99_ms:g}ms",
        "sessions": [case.sessions],
        "threads": case.threads,
        "batches": [case.batch],
        "queue_delays": [f"{case.delay_ms:g}ms"],
    }
    return {key: value for key, value in entry.items() if value is not None}


def as_json(each: Tuned) -> dict[str, Any]:
    """All figures of one case."""
    return {
        "case": each.case.id,
        "bound_ms": MS * each.bound_s,
        "finalists": [{**asdict(finalist), "knobs": finalist.knobs.model_dump()} for finalist in each.finalists],
        "worths": [asdict(worth) for worth in each.worths],
        "rate": each.rate,
        "tested": each.tested,
        "excluded": each.excluded,
    }

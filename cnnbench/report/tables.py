"""Records to tables of numbers: pandas data frames, one row per model or case, units in the column names."""

from collections.abc import Iterable, Sequence

import pandas as pd

from cnnbench import machine
from cnnbench.case import PHASES, REFERENCE_RUNTIME, Workload
from cnnbench.record import MEASURED, Record
from cnnbench.stats import percentile, ratio_estimate, time_estimate
from cnnbench.store import Run
from cnnbench.units import MB, MIB


def models_table(records: Iterable[Record]) -> pd.DataFrame:
    """One row per model: counts and who agrees on them, sizes, published accuracy, what the artifact took to build."""
    rows: dict[str, dict[str, object]] = {}
    for record in records:
        counts, facts = record.counts, record.artifact
        if counts is None or facts is None:
            continue
        rows[record.case.spec.label] = {
            "model": record.case.spec.label,
            "input": "x".join(map(str, facts.input_shape)),
            "params": counts.params,
            "macs": counts.macs,
            "counts": "agree" if not counts.disagreements else "DISAGREE",
            "witnesses": len(counts.witnesses),
            "closed_form": counts.closed_form,
            "top1_percent": counts.top1_percent,
            "weights_mb": facts.weight_bytes / MB,
            "onnx_mb": facts.onnx_bytes / MB if facts.onnx_bytes else None,
            "export_s": facts.seconds.get("export"),
        }
    return pd.DataFrame(rows.values())


def cases_table(records: Sequence[Record], workload: Workload) -> pd.DataFrame:
    """One row per case of a workload, measured or not; times in milliseconds for one call of the whole batch."""
    by_race: dict[tuple[object, ...], Record] = {
        record.case.race_key: record for record in records if record.case.runtime == REFERENCE_RUNTIME
    }
    rows = [_row(record, by_race.get(record.case.race_key)) for record in records if record.case.workload == workload]
    frame = pd.DataFrame(rows)
    return frame if workload == "inference" else frame.drop(columns=["parity_error"], errors="ignore")


def _row(record: Record, reference: Record | None) -> dict[str, object]:
    case = record.case
    row: dict[str, object] = {
        "model": case.label,
        "batch": case.batch,
        "device": case.device,
        "runtime": case.runtime,
        "status": record.status,
        "ms": None,
        "ms_low": None,
        "ms_high": None,
        "p90_ms": None,
        "images_per_s": None,
    }
    row |= {f"{phase}_ms": None for phase in PHASES[case.workload] if case.workload == "training"}
    row |= {
        "speedup": None,
        "speedup_low": None,
        "speedup_high": None,
        "peak_mib": None,
        "parity_error": max((p.error for p in record.parity if p.error is not None), default=None),
        "samples": None,
        "reason": "; ".join(record.reasons),
        "id": record.id,
    }
    if record.measurement is not None:
        row |= _measured(record)
        row |= _speedup(record, reference)
    return row


def _measured(record: Record) -> dict[str, object]:
    """What the raw samples say; also for invalid records, whose numbers are shown and never compared."""
    assert record.measurement is not None
    case, launch = record.case, record.measurement.launches[0]
    turns = record.measurement.turns()
    if not turns:
        return {}
    time = time_estimate(turns)
    samples = [sample for turn in turns for sample in turn]
    memory = launch.memory
    peak_bytes = memory.peak_bytes if case.device == "cpu" else memory.device_allocated_bytes
    p90 = percentile(samples, 90) if launch.calls_per_sample == 1 else None
    found: dict[str, object] = {
        "ms": time.value * 1e3,
        "ms_low": None if time.low is None else time.low * 1e3,
        "ms_high": None if time.high is None else time.high * 1e3,
        "p90_ms": None if p90 is None else p90 * 1e3,
        "images_per_s": case.batch / time.value,
        "peak_mib": None if peak_bytes is None else peak_bytes / MIB,
        "samples": len(samples),
    }
    if case.workload == "training":
        for phase in PHASES[case.workload]:
            found[f"{phase}_ms"] = time_estimate(record.measurement.phase_turns(phase)).value * 1e3
    return found


def _speedup(record: Record, reference: Record | None) -> dict[str, object]:
    """How many times as fast as the reference runtime in the same race; empty for the reference itself."""
    if (
        reference is None
        or reference.id == record.id
        or reference.race != record.race
        or record.status not in MEASURED
        or reference.status not in MEASURED
        or record.measurement is None
        or reference.measurement is None
    ):
        return {}
    theirs, ours = reference.measurement.turns(), record.measurement.turns()
    rounds = min(len(theirs), len(ours))  # one that failed later has fewer
    ratio = ratio_estimate(theirs[:rounds], ours[:rounds])
    return {"speedup": ratio.value, "speedup_low": ratio.low, "speedup_high": ratio.high}


def start_table(records: Iterable[Record]) -> pd.DataFrame:
    """One row per model, workload, runtime and device: the stages before the steady state, each on its own.

    From the measured case with the smallest batch; the first call is of one image whatever the case's batch.
    """
    rows: dict[tuple[str, ...], dict[str, object]] = {}
    for record in sorted(records, key=lambda r: r.case.batch):
        case, facts = record.case, record.artifact
        key = (case.label, case.workload, case.runtime, case.device)
        if key in rows or record.measurement is None or facts is None:
            continue
        launch = record.measurement.launches[0]
        rows[key] = {
            "model": case.label,
            "workload": case.workload,
            "runtime": case.runtime,
            "device": case.device,
            "export_s": facts.seconds.get("export") if case.runtime == "ort" else None,
            "import_s": launch.import_s,
            "load_s": launch.load_s,
            "first_call_ms": launch.first_call_s * 1e3,
            "warmup_calls": launch.warmup_calls,
            "steady": launch.steady,
        }
    return pd.DataFrame(rows.values())


def comparison_table(runs: Sequence[Run]) -> pd.DataFrame:
    """One row per case id over several runs: each run's median in milliseconds, and its ratio to the first run's.

    A column pair per run, named by the run's folder. Empty where a run has no valid measurement of the case.
    """
    ids = list(dict.fromkeys(id_ for run in runs for id_, record in run.records.items() if record.measurement))
    rows = []
    for id_ in ids:
        row: dict[str, object] = {"case": id_}
        base = None
        for index, run in enumerate(runs):
            record = run.records.get(id_)
            name = run.folder.name
            time = None
            if record is not None and record.status in MEASURED and record.measurement is not None:
                time = time_estimate(record.measurement.turns())
            base = time if index == 0 else base
            row[f"{name} ms"] = time.value * 1e3 if time else None
            row[f"{name} low"] = time.low * 1e3 if time and time.low else None
            row[f"{name} high"] = time.high * 1e3 if time and time.high else None
            if index:
                row[f"{name} / {runs[0].folder.name}"] = time.value / base.value if time and base else None
        rows.append(row)
    return pd.DataFrame(rows)


def machines_table(runs: Sequence[Run]) -> pd.DataFrame:
    """One row per run: the machine and the versions it was made with."""
    rows = []
    for run in runs:
        software = run.environment.get("software", {})
        rows.append(
            {
                "run": run.folder.name,
                "machine": machine.label(run.environment) if run.environment else "unknown",
                "started": run.started,
                "torch": software.get("torch"),
                "onnxruntime": software.get("onnxruntime-gpu") or software.get("onnxruntime"),
                "cases": len(run.records),
                "measured": sum(record.status in MEASURED for record in run.records.values()),
            }
        )
    return pd.DataFrame(rows)

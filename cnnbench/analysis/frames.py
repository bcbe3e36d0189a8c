"""Records to tables of numbers: pandas data frames, one row per model or case, units in the column names."""

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from statistics import linear_regression

import pandas as pd

from cnnbench.analysis.counts import MACS, PARAMS, SPEAKS_OF, find, total
from cnnbench.analysis.stats import launch_estimate, launch_ratio_estimate, percentile, ranks
from cnnbench.errors import CnnbenchError
from cnnbench.networks import registry
from cnnbench.networks.training_cost import backward_macs
from cnnbench.networks.units import MB, MIB
from cnnbench.records.environment import Environment
from cnnbench.records.record import MEASURED, MIN_TURNS, CounterResults, Launch, Record
from cnnbench.suite.case import PHASES, WORKLOADS, ModelSpec, Workload

PERCENTILES = (90, 95, 99)
WITNESSES = ("closed form", "module", "dispatch", "fvcore", "onnx", "backward", "published")
GIGA = 10**9
MIN_BATCHES = 3


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
            "counters": len(counts.counters),
            "closed_form": counts.closed_form,
            "top1_percent": counts.top1_percent,
            "weights_mb": facts.weight_bytes / MB,
            "onnx_mb": facts.onnx_bytes / MB if facts.onnx_bytes else None,
            "export_s": facts.seconds.get("export"),
        }
    return pd.DataFrame(rows.values())


def counters_table(records: Iterable[Record]) -> pd.DataFrame:
    """Three rows per model: what each witness of its counts says, of parameters, MACs, and MACs of the backward pass.

    A published number of MACs is rounded to a thousandth of 1e9 by its publisher.
    """
    rows: dict[tuple[str, str], dict[str, object]] = {}
    for record in records:
        if record.artifact is None:
            continue
        for of, by_counter in _said(record.case.spec, record.artifact.counters).items():
            if by_counter:
                row = {"model": record.case.spec.label, "of": of}
                rows[record.case.spec.label, of] = row | {name: by_counter.get(name) for name in WITNESSES}
    return pd.DataFrame(rows.values()).convert_dtypes()


def counter_notes(records: Iterable[Record]) -> list[str]:
    """What the witnesses' differences come to: known reasons, and what has none."""
    notes: dict[str, None] = {}
    for record in records:
        if record.artifact is None or registry.find(record.case.spec.model) is None:
            continue
        with suppress(CnnbenchError):  # a model that this version has at other sizes
            findings = find(record.case.spec, record.artifact.counters)
            said = [*findings.explained, *(f"DISAGREE: {line}" for line in findings.disagreements)]
            notes |= dict.fromkeys(f"{record.case.spec.label}: {line}" for line in said)
    return list(notes)


def _said(spec: ModelSpec, counters: CounterResults) -> dict[str, dict[str, int]]:
    """What each witness says, by what it speaks of."""
    counted, published = counters.counted, counters.published
    closed = {"closed form": counters.closed_form} if counters.closed_form is not None else {}
    params = {name: total(each, PARAMS) for name, each in (closed | counted).items() if _speaks(name, PARAMS)}
    macs = {name: total(each, MACS) for name, each in (closed | counted).items() if _speaks(name, MACS)}
    backward = {"backward": total(counted["backward"], MACS)} if "backward" in counted else {}
    if backward and registry.find(spec.model) is not None:
        with suppress(CnnbenchError):
            network = registry.get(spec.model).network(spec.image_size, spec.classes)
            backward["closed form"] = sum(map(backward_macs, network.layers))
    if published is not None:
        params["published"] = published.params
        if published.giga_macs is not None:
            macs["published"] = round(published.giga_macs * GIGA)
    return {"parameters": params, "MACs": macs, "backward MACs": backward}


def _speaks(counter: str, figure: int) -> bool:
    return counter == "closed form" or figure in SPEAKS_OF.get(counter, ())


def cases_table(records: Sequence[Record], workload: Workload) -> pd.DataFrame:
    """One row per case of a workload, measured or not; times in milliseconds for one call of the whole batch."""
    frame = pd.DataFrame(_case_rows(records, workload))
    return frame if workload == "inference" else frame.drop(columns=["parity_error"], errors="ignore")


def all_cases_table(records: Sequence[Record]) -> pd.DataFrame:
    """The cases of both workloads in one table, with a column that tells which."""
    return pd.DataFrame([row | {"workload": each} for each in WORKLOADS for row in _case_rows(records, each)])


def _case_rows(records: Sequence[Record], workload: Workload) -> list[dict[str, object]]:
    by_group: dict[tuple[object, ...], Record] = {
        record.case.group_key: record for record in records if record.case.is_reference
    }
    chosen = [record for record in records if record.case.workload == workload]
    rows = [_row(record, by_group.get(record.case.group_key)) for record in chosen]
    for row, (rank, tied) in zip(rows, _ranks(chosen), strict=True):
        row |= {"rank": rank, "tied": tied}
    return rows


def _ranks(records: Sequence[Record]) -> list[tuple[int | None, bool]]:
    """Each record's place in its race, 1 the fastest, and whether others share it; None for those alone.

    Those whose intervals overlap share one.
    """
    found: list[tuple[int | None, bool]] = [(None, False)] * len(records)
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, record in enumerate(records):
        if record.status in MEASURED and record.measurement is not None and any(record.measurement.times()):
            groups.setdefault((record.group, record.case.group_key), []).append(index)
    for members in groups.values():
        if len(members) > 1:
            measurements = [records[index].measurement for index in members]
            estimates = [launch_estimate(each.times()) for each in measurements if each is not None]
            places = ranks(estimates)
            for index, rank in zip(members, places, strict=True):
                found[index] = rank, places.count(rank) > 1
    return found


def _row(record: Record, reference: Record | None) -> dict[str, object]:
    case = record.case
    row: dict[str, object] = {
        "model": case.label,
        "batch": case.batch,
        "device": case.device,
        "runtime": case.runtime,
        "precision": case.precision,
        "layout": case.layout,
        "how": case.backend,
        "status": record.status,
        "ms": None,
        "ms_low": None,
        "ms_high": None,
        **{f"p{p}_ms": None for p in PERCENTILES},
        "images_per_s": None,
    }
    row |= {f"{phase}_ms": None for phase in PHASES[case.workload] if case.workload == "training"}
    row |= {
        "speedup": None,
        "speedup_low": None,
        "speedup_high": None,
        "peak_mib": None,
        "parity_error": max((p.error for p in record.parity if p.error is not None), default=None),
        "millijoules_per_image": None,
        "launches": None,
        "samples": None,
        "blocks": None,
        "blocks_with_interference": None,
        "stopped": "",
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
    case, launches = record.case, record.measurement.launches
    times = record.measurement.times()
    if not any(times):
        return {}
    time = launch_estimate(times)
    samples = [sample for blocks in times for block in blocks for sample in block]
    peaks = [
        launch.memory.peak_bytes if case.device == "cpu" else launch.memory.device_allocated_bytes
        for launch in launches
    ]
    single_calls = all(launch.calls_per_sample == 1 for launch in launches)
    percentiles = {p: percentile(samples, p) if single_calls else None for p in PERCENTILES}
    joules = record.measurement.joules_per_image(case.batch)
    found: dict[str, object] = {
        "ms": time.value * 1e3,
        "ms_low": None if time.low is None else time.low * 1e3,
        "ms_high": None if time.high is None else time.high * 1e3,
        **{f"p{p}_ms": None if value is None else value * 1e3 for p, value in percentiles.items()},
        "images_per_s": case.batch / time.value,
        "peak_mib": max((peak / MIB for peak in peaks if peak is not None), default=None),
        "millijoules_per_image": None if joules is None else 1e3 * joules,
        "launches": len(launches),
        "samples": len(samples),
        "blocks": record.measurement.all_blocks,
        "blocks_with_interference": record.measurement.blocks_with_interference,
        "stopped": launches[-1].stopped,
    }
    if case.phases == PHASES["training"]:
        for phase in case.phases:
            found[f"{phase}_ms"] = launch_estimate(record.measurement.times(phase)).value * 1e3
    return found


def _speedup(record: Record, reference: Record | None) -> dict[str, object]:
    """How many times as fast as the reference runtime in the same race; empty for the reference itself."""
    if (
        reference is None
        or reference.id == record.id
        or record.status not in MEASURED
        or reference.status not in MEASURED
        or record.measurement is None
        or reference.measurement is None
    ):
        return {}
    theirs, ours = shared_rounds(reference, record)
    if not any(theirs):
        return {}
    ratio = launch_ratio_estimate(theirs, ours)
    return {"speedup": ratio.value, "speedup_low": ratio.low, "speedup_high": ratio.high}


def shared_rounds(a: Record, b: Record) -> tuple[list[list[list[float]]], list[list[list[float]]]]:
    """The times of two records in the races that both were in, by race and round: rounds that neither was disturbed in.

    Where those are too few, all rounds of the race.
    """
    assert a.measurement is not None
    assert b.measurement is not None
    others = {group_of(launch, b): launch for launch in b.measurement.launches}
    pairs = [
        (launch, others[group_of(launch, a)]) for launch in a.measurement.launches if group_of(launch, a) in others
    ]
    times: tuple[list[list[list[float]]], list[list[list[float]]]] = ([], [])
    for launches in pairs:
        blocks = [{block.round: block for block in launch.blocks} for launch in launches]
        shared = [number for number in blocks[0] if number in blocks[1]]
        clean = [number for number in shared if not any(each[number].interference for each in blocks)]
        chosen = clean if len(clean) >= MIN_TURNS else shared
        for launch, each, into in zip(launches, blocks, times, strict=True):
            into.append([[total / launch.calls_per_sample for total in each[n].totals_s()] for n in chosen])
    return times


def group_of(launch: Launch, record: Record) -> str:
    """The race of a launch; in records of the first schema, that of the record."""
    return launch.group or record.group or record.id


def start_table(records: Sequence[Record]) -> pd.DataFrame:
    """One row per model, workload, runtime and device: the stages before the steady state, each on its own.

    From the first launch of the measured case with the smallest batch; the first call is of one image whatever the
    case's batch, but for runtimes that compile for it.
    """
    rows: dict[tuple[str, ...], dict[str, object]] = {}
    references = {record.case.group_key: record for record in records if record.case.is_reference}
    for record in sorted(records, key=lambda r: r.case.batch):
        case, facts = record.case, record.artifact
        key = (case.label, case.workload, case.backend)
        if key in rows or record.measurement is None or facts is None:
            continue
        launch = record.measurement.launches[0]
        rows[key] = {
            "model": case.label,
            "workload": case.workload,
            "runtime": case.runtime,
            "device": case.device,
            "how": case.backend,
            "export_s": facts.seconds.get("export") if case.is_exported else None,
            "import_s": launch.import_s,
            "load_s": launch.load_s,
            "first_call_ms": launch.first_call_s * 1e3,
            "break_even_images": breaks_even(record, references.get(case.group_key)),
            "warmup_calls": launch.warmup_calls,
            "converged": launch.converged,
        }
    return pd.DataFrame(rows.values())


def breaks_even(record: Record, reference: Record | None) -> float | None:
    """After how many images a longer start (export, load, compile, first call) is made up for by faster calls.

    0 where it starts sooner and runs faster; infinite where it never does; None where the two cannot be compared.
    """
    if reference is None or reference.id == record.id or not {record.status, reference.status} <= set(MEASURED):
        return None
    theirs, ours = _start_and_rate(reference), _start_and_rate(record)
    if theirs is None or ours is None:
        return None
    later, sooner_per_image = ours[0] - theirs[0], theirs[1] - ours[1]
    if sooner_per_image <= 0:
        return math.inf
    return max(0.0, later / sooner_per_image)


def _start_and_rate(record: Record) -> tuple[float, float] | None:
    """Seconds from the libraries being there to the first output, and seconds for each image from then on."""
    if record.measurement is None or record.artifact is None or not any(record.measurement.times()):
        return None
    launch = record.measurement.launches[0]
    export_s = record.artifact.seconds.get("export", 0.0) if record.case.is_exported else 0.0
    call_s = launch_estimate(record.measurement.times()).value
    return export_s + launch.load_s + launch.first_call_s, call_s / record.case.batch


def batches_table(records: Iterable[Record]) -> pd.DataFrame:
    """One row per model, workload and runtime of which at least three batches were measured: which batch is the best.

    The batch at which memory ends: where a straight line through the peaks reaches the machine's memory.
    """
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        if record.status in MEASURED and record.measurement is not None and any(record.measurement.times()):
            groups.setdefault((record.case.label, record.case.workload, record.case.backend), []).append(record)
    rows = []
    for (model, workload, how), members in groups.items():
        measured = {record.case.batch: _measured(record) for record in members}
        if len(measured) < MIN_BATCHES:
            continue
        rates = {batch: float(str(found["images_per_s"])) for batch, found in measured.items()}
        best = max(rates, key=lambda batch: rates[batch])
        peaks = {batch: float(str(found["peak_mib"])) for batch, found in measured.items() if found["peak_mib"]}
        rows.append(
            {
                "model": model,
                "workload": workload,
                "how": how,
                "batches": ", ".join(map(str, sorted(measured))),
                "best_batch": best,
                "images_per_s": rates[best],
                "of_batch_1": rates[best] / rates[1] if 1 in rates else None,
                "mib_per_image": _slope(peaks)[0],
                "memory_ends_at": _memory_ends_at(peaks, members[0].environment),
            }
        )
    return pd.DataFrame(rows)


def _slope(peaks: dict[int, float]) -> tuple[float, float]:
    """Slope and intercept of the straight line through the peaks, by least squares."""
    fit = linear_regression(list(peaks), list(peaks.values()))
    return fit.slope, fit.intercept


def _memory_ends_at(peaks: dict[int, float], environment: Environment | None) -> int | None:
    slope, intercept = _slope(peaks)
    if environment is None or slope <= 0:
        return None
    return max(0, math.floor((environment.machine.memory_bytes / MIB - intercept) / slope))

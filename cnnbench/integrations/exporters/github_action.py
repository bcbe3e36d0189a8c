"""github-action-benchmark's custom format: an array of figures, one file for each direction.

`tool: customSmallerIsBetter` reads the latencies, `tool: customBiggerIsBetter` the throughputs. Fields as in its
`extract.ts`: `name`, `unit`, `value`, and as text `range` (read only as `± N`) and `extra`. It compares with the last
commit by a bare ratio, so it is for plotting; `fail-on-alert` belongs off.
"""

from typing import Any

from cnnbench.analysis.stats import CONFIDENCE, Estimate
from cnnbench.integrations.exporters.converted import Converted, left_out, machine_of, measured, rates
from cnnbench.records.record import Record
from cnnbench.records.run_folder import Run
from cnnbench.report.escape import strict_json
from cnnbench.report.format import significant
from cnnbench.report.reasons import reason_text


def convert(run: Run) -> Converted:
    """The run as two arrays: milliseconds of a call, and images or queries per second."""
    latency = [_entry(run, each.record, "ms", each.call_s.scaled(1e3)) for each in measured(run)]
    throughput = [_entry(run, each.record, "images/s", each.images_per_s) for each in measured(run)]
    throughput += [_entry(run, run.records[id_], "queries/s", rate) for id_, rate in rates(run).items()]
    arrays = {".latency.json": latency, ".throughput.json": throughput}
    return Converted(
        {end: strict_json(entries, 2, ascii_only=False) for end, entries in arrays.items()},
        [
            "samples, memory, counts and starting times have no place; only medians and their intervals",
            *left_out(run, with_rates=True),
        ],
    )


def _entry(run: Run, record: Record, unit: str, estimate: Estimate) -> dict[str, Any]:
    launches = sum(bool(launch.call_blocks() or launch.serving) for launch in record.launches)
    lines = [f"status: {record.status}", *map(reason_text, record.reasons), f"launches: {launches}"]
    entry: dict[str, Any] = {"name": record.id, "unit": unit, "value": estimate.value}
    if estimate.low is not None and estimate.high is not None:
        entry["range"] = f"± {significant(estimate.half_width * estimate.value).replace(',', '')}"
        lines.append(f"{CONFIDENCE:.0%} interval: {significant(estimate.low)} to {significant(estimate.high)} {unit}")
    return {**entry, "extra": "\n".join([*lines, f"machine: {machine_of(run)}"])}

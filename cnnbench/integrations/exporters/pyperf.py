"""pyperf's JSON, for `python -m pyperf stats|hist|dump|metadata|compare_to`: the one format that knows processes.

A run is a launch. pyperf compares pools of values, and calls two benchmarks with different numbers of values
significantly different whatever the values are (`_compare.py` in pyperf 2.10). So every launch gives the same number of
values: the medians of six consecutive groups of its blocks, as equal in size as possible.
"""

from datetime import datetime
from itertools import pairwise
from statistics import median
from typing import Any

from cnnbench.integrations.exporters.converted import START, Converted, Measured, left_out, measured
from cnnbench.records.record import MIN_BLOCKS, Launch
from cnnbench.records.run_folder import Run
from cnnbench.report.escape import strict_json

VALUES_PER_LAUNCH = MIN_BLOCKS


def convert(run: Run) -> Converted:
    """The run as a suite of benchmarks."""
    have = measured(run)
    content = {
        "version": "1.0",
        "metadata": _filled({"description": f"cnnbench, suite {run.suite}", **_machine(run)}),
        "benchmarks": [_benchmark(each) for each in have],
    }
    lost = [
        f"each launch is {VALUES_PER_LAUNCH} values, medians of consecutive blocks; intervals and single samples are "
        "not in it, and pyperf computes its own from the pool"
    ]
    if len({sum(map(len, _values(each))) for each in have}) > 1:
        lost.append("cases have different numbers of values, which `pyperf compare_to` reports as significant")
    return Converted({".json": strict_json(content, 1)}, [*lost, *left_out(run)])


def _benchmark(each: Measured) -> dict[str, Any]:
    record = each.record
    common = {"name": record.id, "unit": "second", "status": record.status, **each.params}
    runs = [
        {"metadata": _run(launch, record.started), "values": values}
        for (launch, _), values in zip(each.launches, _values(each), strict=True)
    ]
    return {"metadata": _filled(common), "runs": runs}


def _values(each: Measured) -> list[list[float]]:
    return [grouped([median(block) for block in blocks]) for _, blocks in each.launches]


def grouped(values: list[float]) -> list[float]:
    """Medians of six consecutive groups of values, as equal in size as possible; fewer than six stay as they are."""
    groups = min(VALUES_PER_LAUNCH, len(values))
    bounds = [round(place * len(values) / groups) for place in range(groups + 1)]
    return [median(values[low:high]) for low, high in pairwise(bounds)]


def _run(launch: Launch, started: str) -> dict[str, Any]:
    return _filled(
        {
            "date": datetime.fromisoformat(started).strftime("%Y-%m-%d %H:%M:%S") if started else None,
            "loops": launch.calls_per_sample,
            "mem_max_rss": launch.memory.peak_bytes,
            "duration": sum(sum(block.totals_s()) for block in launch.blocks),
            **launch.model_dump(include=START),
        }
    )


def _machine(run: Run) -> dict[str, Any]:
    if run.environment is None:
        return {}
    facts = run.environment.machine
    software = {name if name == "git_commit" else f"{name}_version": version for name, version in run.software.items()}
    return {"cpu_model_name": facts.cpu, "cpu_count": facts.logical_cores, "platform": facts.system, **software}


def _filled(metadata: dict[str, Any]) -> dict[str, Any]:
    """pyperf refuses empty values."""
    return {key: value for key, value in metadata.items() if value not in (None, "")}

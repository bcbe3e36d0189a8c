"""Bencher Metric Format, version 0, for `bencher run --adapter json`.

An object: benchmark -> measure -> `value`, and where there is an interval `lower_value` and `upper_value`. Of Bencher's
own measures: `latency` in nanoseconds, `throughput` per second (here of images).
"""

from cnnbench.analysis.stats import Estimate
from cnnbench.integrations.exporters.converted import Converted, left_out, measured
from cnnbench.records.run_folder import Run
from cnnbench.report.escape import strict_json

NANOSECONDS = 1e9


def convert(run: Run) -> Converted:
    """The run's medians with their intervals."""
    metrics = {
        each.record.id: {
            "latency": _metric(each.call_s, NANOSECONDS),
            "throughput": _metric(each.images_per_s, 1.0),
        }
        for each in measured(run)
    }
    lost = ["machine, versions, status, samples and memory have no place; only medians and their intervals"]
    return Converted({".json": strict_json(metrics, 2).encode()}, [*lost, *left_out(run)])


def _metric(estimate: Estimate, scale: float) -> dict[str, float]:
    metric = {"value": estimate.value * scale}
    if estimate.low is not None and estimate.high is not None:
        metric |= {"lower_value": estimate.low * scale, "upper_value": estimate.high * scale}
    return metric

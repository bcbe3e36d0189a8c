"""Bencher Metric Format, version 0, for `bencher run --adapter json`.

An object: benchmark -> measure -> `value`, and where there is an interval `lower_value` and `upper_value`. Of Bencher's
own measures: `latency` in nanoseconds, `throughput` per second (here of images, and of queries to a service).
"""

from cnnbench.analysis.stats import Estimate
from cnnbench.integrations.exporters.converted import Converted, left_out, measured, rates
from cnnbench.records.run_folder import Run
from cnnbench.report.escape import strict_json


def convert(run: Run) -> Converted:
    """The run's medians with their intervals."""
    metrics = {
        each.record.id: {"latency": _metric(each.call_s.scaled(1e9)), "throughput": _metric(each.images_per_s)}
        for each in measured(run)
    }
    metrics |= {id_: {"throughput": _metric(rate)} for id_, rate in rates(run).items()}
    lost = ["machine, versions, status, samples and memory are left out; only medians and their intervals are in it"]
    return Converted({".json": strict_json(metrics, 2)}, [*lost, *left_out(run, with_rates=True)])


def _metric(estimate: Estimate) -> dict[str, float]:
    metric = {"value": estimate.value, "lower_value": estimate.low, "upper_value": estimate.high}
    return {key: value for key, value in metric.items() if value is not None}

"""The layers of any model: in closed form, or traced as it runs."""

from cnnbench.analysis.replay import Reading, replay
from cnnbench.records.messages import Trace, Traced
from cnnbench.runner import machine
from cnnbench.runner.worker_process import one_worker
from cnnbench.suite.case import ModelSpec

LIMIT_S = 300.0


def read(spec: ModelSpec) -> Reading:
    """Has a worker run one image through a model that has no closed form. Raises ModelError, WorkerError."""
    if (network := spec.closed_form) is not None:
        return Reading(network, left_out=[])
    with one_worker("trace", machine.usable_threads(), LIMIT_S) as worker:
        return replay(spec.label, worker.ask(Trace(spec=spec), Traced))

"""The layers of a model that has no closed form, traced as it runs."""

from cnnbench.analysis.replay import Reading, replay
from cnnbench.records.messages import Trace, Traced
from cnnbench.runner import machine
from cnnbench.runner.worker_process import one_worker
from cnnbench.suite.case import ModelSpec

LIMIT_S = 300.0


def read(spec: ModelSpec) -> Reading:
    """Have a worker run one image through the model. Raises ModelError, WorkerError."""
    with one_worker("trace", machine.usable_threads(), LIMIT_S) as worker:
        return replay(spec.label, worker.ask(Trace(spec=spec), Traced))

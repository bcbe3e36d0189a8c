"""The layers of a model that has no closed form, traced as it runs."""

from pathlib import Path
from tempfile import TemporaryDirectory

from cnnbench.analysis.replay import Reading, replay
from cnnbench.records.messages import Trace, Traced
from cnnbench.runner import machine
from cnnbench.runner.worker_process import Worker
from cnnbench.suite.case import ModelSpec

LIMIT_S = 300.0


def read(spec: ModelSpec) -> Reading:
    """Have a worker run one image through the model. Raises ModelError, WorkerError."""
    with (
        TemporaryDirectory(prefix="cnnbench-") as logs,
        Worker(Path(logs) / "trace.log", machine.usable_threads(), LIMIT_S) as worker,
    ):
        return replay(spec.label, worker.ask(Trace(spec=spec), Traced))

"""Every counter of a model's parameters and MACs, asked in one child process."""

from collections.abc import Iterator, Sequence

from cnnbench.analysis.counts import Verdict, judge
from cnnbench.records.messages import Count
from cnnbench.records.record import CounterResults
from cnnbench.runner import machine
from cnnbench.runner.worker_process import one_worker
from cnnbench.suite.case import ModelSpec

LIMIT_S = 300.0


def verify(specs: Sequence[ModelSpec]) -> Iterator[Verdict]:
    """One verdict per model, as it is found, from one child process. Raises ModelError, WorkerError."""
    with one_worker("verify", machine.usable_threads(), LIMIT_S) as worker:
        for spec in specs:
            yield judge(spec, worker.ask(Count(spec=spec), CounterResults))

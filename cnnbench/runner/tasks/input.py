"""How fast a suite's images become batches, in a worker of its own, before anything else is measured."""

from datetime import datetime
from pathlib import Path

from cnnbench.errors import WorkerError
from cnnbench.records import dataset
from cnnbench.records.input_times import InputTimes
from cnnbench.records.task_messages import MeasureInput
from cnnbench.runner.worker_process import Worker
from cnnbench.suite.case import Device
from cnnbench.suite.input_plan import InputPlan

LIMIT_S = 300.0


def measure_input(plan: InputPlan, device: Device, threads: int, logs: Path) -> InputTimes:
    """Measure it; what could not be measured for another reason than the user's data is in `failure`.

    Raises InputError for data or transforms that do not fit.
    """
    request = MeasureInput(plan=plan, data=dataset.find(plan.data), device=device, threads=threads)
    try:
        with Worker(logs / "input.log", threads, LIMIT_S) as worker:
            return worker.ask(request, InputTimes)
    except WorkerError as error:
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        return InputTimes(plan=plan, device=device, started=started, failure=str(error))

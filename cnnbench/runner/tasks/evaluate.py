"""A trained model on a data set's test images, in each runtime, in a process of its own."""

from collections.abc import Callable, Sequence
from typing import get_args

from cnnbench.analysis.evaluation import Predictions
from cnnbench.errors import InputError, WorkerError, unknown
from cnnbench.records import artifact
from cnnbench.records.dataset import DataSet
from cnnbench.records.messages import Load, Loaded
from cnnbench.records.task_messages import (
    Classified,
    Classify,
    ClassifyingStarted,
    PrepareTest,
    StartClassifying,
    TestPrepared,
)
from cnnbench.runner import machine, plan
from cnnbench.runner.artifacts import LIMIT_S, Artifacts
from cnnbench.runner.worker_process import Worker
from cnnbench.suite.case import NOISE, QUANTISED, Case, ModelSpec, Precision
from cnnbench.suite.runtimes import cannot, runtime_kind

BATCH = 50
TURN_S = 0.5
"""How often a worker says how far it is."""


def cases_of(
    spec: ModelSpec, runtimes: Sequence[str], precisions: Sequence[str], calibration: str = NOISE
) -> list[Case]:
    """Each runtime in each precision that it has; int8 calibrated with a data set's training images.

    Raises InputError for one that has none of them, or there is not.
    """

    def by_precision(precision: str) -> str:
        return calibration if precision in QUANTISED else NOISE

    found, case = list[Case](), {"spec": spec, "workload": "inference", "batch": BATCH}
    for name in precisions:
        if name not in get_args(Precision):
            raise InputError(f"--precision: {unknown('precision', name, get_args(Precision))}")
    for runtime in dict.fromkeys(runtimes):
        reasons = {each: cannot(runtime, "inference", "cpu", each, "nchw", model=spec.model) for each in precisions}
        if all(reasons.values()):
            raise InputError(f"--runtime {runtime}: {next(iter(reasons.values()))}")
        found += [
            Case.model_validate(case | {"runtime": runtime, "precision": each, "calibration": by_precision(each)})
            for each, reason in reasons.items()
            if reason is None
        ]
    return found


def evaluate(cases: Sequence[Case], data: DataSet, watch: Callable[[str, int, int], None]) -> Predictions:
    """The class of each test image by each case, under the case's backend.

    `watch` is told the backend, and how many images are done of how many.
    Raises InputError for data or a model that do not fit, ModelError for weights that do not, and WorkerError.
    """
    spec, threads = cases[0].spec, machine.usable_threads()
    with Artifacts() as artifacts:
        facts = artifacts.get(spec)
        artifacts.build([wanted := artifacts.wanted(spec, ahead=plan.compiled_ahead([cases], spec))])
        if facts.inputs:
            raise InputError(f"{spec.label}: expected a model of one input; it takes {', '.join(facts.inputs)}")
        images, folder = str(artifacts.logs / "images.npy"), str(artifact.folder_of(spec, facts.key))
        with Worker(artifacts.logs / "data.log", threads, LIMIT_S) as worker:
            request = PrepareTest(data=data, shape=facts.input_shape, classes=facts.classes, out=images)
            test = worker.ask(request, TestPrepared)
        classes: dict[str, list[int]] = {}
        for case in cases:
            if facts.onnx_error is not None and runtime_kind(case.runtime).runs_exported_graph:
                raise WorkerError(f"{spec.label}: ONNX export failed: {facts.onnx_error}")
            if problem := artifacts.find(wanted).problem(case.model_copy(update={"batch": facts.batch or case.batch})):
                raise WorkerError(f"{spec.label}: {case.backend}: {problem.reason}")
            case = case.model_copy(update={"batch": facts.batch or case.batch})
            found = classes[case.backend] = []
            with Worker(artifacts.logs / f"{artifact.file_name(case.backend)}.log", threads, LIMIT_S) as worker:
                worker.ask(Load(case=case, threads=threads), Loaded)
                start = StartClassifying(case=case, folder=folder, images=images, scaling=test.scaling)
                worker.ask(start, ClassifyingStarted)
                while len(found) < len(test.labels):
                    found += worker.ask(Classify(seconds=TURN_S), Classified).classes
                    watch(case.backend, len(found), len(test.labels))
    return Predictions(names=test.classes, labels=test.labels, classes=classes)

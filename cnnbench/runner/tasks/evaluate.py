"""A trained model on a data set's test images, in each runtime, in a process of its own."""

import itertools
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar, get_args

from cnnbench.analysis.evaluation import Predictions
from cnnbench.errors import CnnbenchError, InputError, WorkerError, unknown
from cnnbench.records import artifact, dataset
from cnnbench.records.dataset import DataSet
from cnnbench.records.evaluation import Evaluation
from cnnbench.records.messages import Load, Loaded
from cnnbench.records.record import ArtifactFacts
from cnnbench.records.task_messages import (
    Classified,
    Classify,
    ClassifyingStarted,
    PrepareTest,
    StartClassifying,
    TestPrepared,
)
from cnnbench.runner import machine, plan
from cnnbench.runner.artifacts import LIMIT_S, Artifacts, Built
from cnnbench.runner.worker_process import Worker
from cnnbench.suite.case import NOISE, QUANTISED, Case, ModelSpec, Precision
from cnnbench.suite.load import TestSet
from cnnbench.suite.runtimes import REFERENCE, cannot, runtime_kind

BATCH = 50
"""Images that are classified at once, where what runs takes any batch."""
Found = TypeVar("Found")
DRAWS = 3
"""Of the images that int8 is calibrated with, whose graphs are evaluated."""
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
    others = {case: draws_of(case) for case in cases}
    with Artifacts() as artifacts:
        facts = artifacts.get(spec)
        ahead = plan.compiled_ahead([cases, *others.values()], spec)
        artifacts.build([wanted := artifacts.wanted(spec, ahead=ahead)])
        folder = artifact.folder_of(spec, facts.key)
        images = prepared(spec, facts, data, artifacts.logs / "images.npy", threads)
        classes: dict[str, list[int]] = {}
        right: dict[str, list[int]] = {}
        for case in itertools.chain.from_iterable((each, *others[each]) for each in cases):
            if facts.onnx_error is not None and runtime_kind(case.runtime).runs_exported_graph:
                raise WorkerError(f"{spec.label}: ONNX export failed: {facts.onnx_error}")
            if problem := artifacts.find(wanted).problem(case.model_copy(update={"batch": facts.batch or case.batch})):
                raise WorkerError(f"{spec.label}: {case.backend}: {problem.reason}")
            case = case.model_copy(update={"batch": facts.batch or case.batch})
            log = artifacts.logs / f"{artifact.file_name(case.backend)}.log"
            found = classified(case, folder, images, threads, log, watch)
            if case.draw:
                right.setdefault(case.backend, []).append(_right(found, images))
            else:
                classes[case.backend] = found
    return Predictions(images.about.classes, images.about.labels, classes, right)


class TestImages(NamedTuple):
    """Test images in a file, and what is known of them."""

    file: str
    about: TestPrepared


def prepared(
    spec: ModelSpec, facts: ArtifactFacts, data: DataSet, file: Path, threads: int, at_most: int | None = None
) -> TestImages:
    """The test images for a model, in a file. Raises InputError for data or a model that do not fit, WorkerError."""
    if facts.inputs:
        raise InputError(f"{spec.label}: expected a model of one input; it takes {', '.join(facts.inputs)}")
    request = PrepareTest(data=data, shape=facts.input_shape, classes=facts.classes, out=str(file), at_most=at_most)
    with Worker(file.with_suffix(".log"), threads, LIMIT_S) as worker:
        return TestImages(str(file), worker.ask(request, TestPrepared))


def classified(
    case: Case,
    folder: Path,
    images: TestImages,
    threads: int,
    log: Path,
    watch: Callable[[str, int, int], None] = lambda *_: None,
    ends_s: float = math.inf,
) -> list[int]:
    """The class of each image by a case, from its artifact's folder, in a new process.

    Raises WorkerError, also as soon as it is clear that it would go on past `ends_s`, on the clock of `time.monotonic`.
    """
    found, count, begun_s = list[int](), len(images.about.labels), time.monotonic()
    with Worker(log, threads, LIMIT_S) as worker:
        worker.ask(Load(case=case, threads=threads), Loaded)
        scaling = images.about.scaling
        start = StartClassifying(case=case, folder=str(folder), images=images.file, scaling=scaling)
        worker.ask(start, ClassifyingStarted)
        while len(found) < count:
            found += worker.ask(Classify(seconds=TURN_S), Classified).classes
            watch(case.backend, len(found), count)
            whole_s = (time.monotonic() - begun_s) * count / max(len(found), 1)
            if len(found) < count and begun_s + whole_s > ends_s:
                raise WorkerError(
                    f"to classify {count:,} test images would take about {whole_s:,.0f} s, more than is left of the "
                    "budget; give a larger one"
                )
    return found


class Evaluator:
    """Evaluates what a run has timed: each artifact once in each runtime, whatever the batches of its cases."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._images: dict[tuple[object, ...], TestImages | CnnbenchError] = {}
        self._classes: dict[tuple[Case, str], list[int] | CnnbenchError] = {}
        self._ends_s = math.inf

    def evaluate(self, case: Case, test: TestSet, built: Built, left_s: float) -> Evaluation | None:
        """The counts of a case, or why there are none within so many seconds; None for random weights, which have no
        accuracy."""
        self._ends_s = time.monotonic() + left_s
        spec, facts = case.spec, built.facts
        if facts is None or facts.begun_anew or not has_weights(spec):
            return None
        try:
            images = self._images_of(spec, facts, test)
            own = self._classes_of(case, built, facts, images)
        except CnnbenchError as error:
            return Evaluation(data=test.data, problem=str(error))
        labels = images.about.labels
        right = [found == label for found, label in zip(own, labels, strict=True)]
        counts = Evaluation(
            data=test.data, images=len(labels), correct=sum(right), draws=self._of_draws(case, built, facts, images)
        )
        in_fp32 = _in_float32(case)
        try:
            theirs = self._classes_of(in_fp32, built, facts, images)
        except CnnbenchError:
            return counts
        also = [found == label for found, label in zip(theirs, labels, strict=True)]
        pairs = list(zip(right, also, strict=True))
        compared = {
            "reference": in_fp32.backend,
            "only_this": pairs.count((True, False)),
            "only_reference": pairs.count((False, True)),
            "same_class": sum(one == other for one, other in zip(own, theirs, strict=True)),
        }
        return counts.model_copy(update=compared)

    def _of_draws(self, case: Case, built: Built, facts: ArtifactFacts, images: TestImages) -> list[int]:
        """Right images by the graphs that other draws of the calibration's images have led to, as far as there are."""
        found = []
        for each in draws_of(case):
            graph = built.graph(each)
            if graph is not None and graph.error is None:
                with suppress(CnnbenchError):
                    found.append(_right(self._classes_of(each, built, facts, images), images))
        return found

    def _images_of(self, spec: ModelSpec, facts: ArtifactFacts, test: TestSet) -> TestImages:
        key = (test.data, test.images, facts.input_shape, facts.classes)
        if key not in self._images:
            file = self._logs / f"test-{len(self._images)}.npy"
            try:
                found = dataset.find(test.data)
                self._images[key] = prepared(spec, facts, found, file, machine.usable_threads(), test.images)
            except CnnbenchError as error:
                self._images[key] = error
        return _known(self._images[key])

    def _classes_of(self, case: Case, built: Built, facts: ArtifactFacts, images: TestImages) -> list[int]:
        batch = facts.batch or (case.batch if case.is_compiled_ahead else BATCH)
        plain = case.model_copy(update={"batch": batch, "allocator": "default"})
        if (key := (plain, images.file)) not in self._classes:
            log = self._logs / f"evaluate-{artifact.file_name(plain.id)}.log"
            try:
                self._classes[key] = classified(
                    plain, built.folder, images, machine.threads_of(plain), log, ends_s=self._ends_s
                )
            except CnnbenchError as error:
                self._classes[key] = error
        return _known(self._classes[key])

    def close(self) -> None:
        """Delete the files of images."""
        for each in self._images.values():
            if isinstance(each, TestImages):
                Path(each.file).unlink(missing_ok=True)


def _right(classes: list[int], images: TestImages) -> int:
    return sum(found == label for found, label in zip(classes, images.about.labels, strict=True))


def has_weights(spec: ModelSpec) -> bool:
    """Whether a model has weights that are not random, so that it may be accurate."""
    return bool(spec.weights) or spec.is_onnx_file or spec.is_program_file


def draws_of(case: Case) -> list[Case]:
    """The case with each other draw of the images that it is calibrated with; none where it is not."""
    if case.calibration == NOISE:
        return []
    return [case.model_copy(update={"draw": draw}) for draw in range(1, DRAWS)]


def _in_float32(case: Case) -> Case:
    """The same runtime in float32; of float32 the reference runtime, where it runs the model."""
    if case.precision != "fp32":
        return case.model_copy(update={"precision": "fp32", "calibration": NOISE})
    if case.spec.is_onnx_file:
        return case
    return case.model_copy(update={"runtime": REFERENCE, "layout": "nchw"})


def _known(found: Found | CnnbenchError) -> Found:
    if isinstance(found, CnnbenchError):
        raise found
    return found

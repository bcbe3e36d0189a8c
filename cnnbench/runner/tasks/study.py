"""A study's training runs, as many at once as there are cores, each with one thread; what is finished is on disk."""

import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import closing
from functools import partial
from hashlib import sha256
from pathlib import Path
from statistics import fmean
from threading import Event
from typing import Any

from cnnbench.errors import InputError, WorkerError
from cnnbench.records import dataset
from cnnbench.records.dataset import DataSet
from cnnbench.records.study_result import StudyResult, append_result, read_results
from cnnbench.records.task_messages import Examine, Examined, StartTraining
from cnnbench.runner import machine, scratch
from cnnbench.runner.fork_server import ForkServers, Lineage
from cnnbench.runner.tasks.train import train
from cnnbench.runner.worker_process import Start, one_worker
from cnnbench.suite.case import ModelSpec
from cnnbench.suite.optimizer import Optimizer
from cnnbench.suite.schedule import Schedule
from cnnbench.suite.study import Arm, Study

LIMIT_S = 600.0
"""The longest that looking at one network may take."""


def digest_of(study: Study, arm: str) -> str:
    """Of all that the arm's results depend on, beside the seed."""
    return sha256(json.dumps(study.settings(arm), sort_keys=True).encode()).hexdigest()[:16]


def current(study: Study, results: list[StudyResult]) -> dict[tuple[str, int], StudyResult]:
    """The study's own results, by arm and seed."""
    digests = {arm: digest_of(study, arm) for arm in study.arms}
    return {
        (each.arm, each.seed): each
        for each in results
        if digests.get(each.arm) == each.digest and each.seed in study.seeds
    }


def left_s(missing: Iterable[tuple[str, int]], found: Iterable[StudyResult], at_once: int) -> float:
    """Seconds that missing runs take: as long as the same arm did with another seed, or as the mean of all."""
    walls = {each.arm: each.wall_s for each in found if each.epochs}
    typical = fmean(walls.values()) if walls else 0.0
    return sum(walls.get(arm, typical) for arm, _ in missing) / at_once


def run_study(
    study: Study, folder: Path, watch: Callable[[str, int, int, float], None]
) -> dict[tuple[str, int], StudyResult]:
    """Train and examine what the folder has no result of, and give all results.

    `watch` is told what is finished, how many are of how many, and about how many seconds are left. Raises InputError
    for data, a model or a run that diverges, and WorkerError; what is finished stays.
    """
    dataset.find(study.data)
    folder.mkdir(parents=True, exist_ok=True)
    found = current(study, read_results(folder)[0])
    wanted = [(arm, seed) for seed in study.seeds for arm in study.arms]
    missing = sorted((each for each in wanted if each not in found), key=lambda each: bool(study.arms[each[0]].start))
    stop = Event()
    threads = machine.usable_threads()
    pool = ThreadPoolExecutor(threads)
    runs: dict[tuple[str, int], Future[StudyResult]] = {}
    with scratch.scratch_folder() as logs, ForkServers(logs, LIMIT_S) as servers:
        start = partial(servers.fork, Lineage(1, purpose="build"))
        try:
            for arm, seed in missing:  # those that others start from are submitted, so begun, before these
                before = runs.get((study.arms[arm].start or "", seed))
                runs[arm, seed] = pool.submit(_result, study, folder, arm, seed, start, stop, before)
            waiting = {run: each for each, run in runs.items()}
            for done in as_completed(waiting):
                found[waiting[done]] = done.result()
                append_result(folder, done.result())
                left = left_s([each for each in wanted if each not in found], found.values(), threads)
                watch("{}, seed {}".format(*waiting[done]), len(found), len(wanted), left)
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
    return {each: found[each] for each in wanted}


def _result(
    study: Study, folder: Path, arm: str, seed: int, start: Start, stop: Event, before: "Future[StudyResult] | None"
) -> StudyResult:
    """Of one run, after the one whose weights it starts from, if that is not on disk yet."""
    if before is not None:
        before.result()
    try:
        return _measured(study, folder, arm, seed, start, stop)
    except InputError as error:
        raise InputError(f"{arm}, seed {seed}: {error}") from None


def _measured(study: Study, folder: Path, arm: str, seed: int, start: Start, stop: Event) -> StudyResult:
    begun, of, spec = time.monotonic(), study.arms[arm], study.spec(arm, seed)
    weights = weights_of(folder, arm, seed)
    if of.start:
        spec = spec.model_copy(update={"weights": str(weights_of(folder, of.start, seed))})
    data = dataset.find(study.data, of.images or study.images, seed)
    data = data.model_copy(update={"classes": tuple(of.classes) if of.classes else None})
    epochs = study.epochs if of.epochs is None else of.epochs
    about: dict[str, Any] = {"arm": arm, "seed": seed, "digest": digest_of(study, arm), "epochs": epochs}
    if epochs:
        about |= _trained(study, of, start, stop, spec, data, weights)
    elif (network := spec.closed_form) is not None:
        about["parameters"] = network.params
    under = dict(study.under) if epochs and study.is_changed(arm) else {}
    if under or study.has_gradients(arm) or "parameters" not in about:
        with one_worker("examine", 1, LIMIT_S, start) as worker:
            file = str(weights) if under else None
            request = Examine(spec=spec, data=data, weights=file, under=under, images=study.tried_images, threads=1)
            about |= dict(worker.ask(request, Examined))
    return StudyResult(**about, wall_s=time.monotonic() - begun)


def weights_of(folder: Path, arm: str, seed: int) -> Path:
    """The file of a run's weights."""
    return (folder / f"{arm.replace(' ', '-')}-{seed}.safetensors").absolute()


def _trained(
    study: Study, of: Arm, start: Start, stop: Event, spec: ModelSpec, data: DataSet, out: Path
) -> dict[str, Any]:
    """What a result has of the training run itself."""
    plan = StartTraining(
        spec=spec,
        runtime=study.runtime,
        data=data,
        batch=of.batch or study.batch,
        optimizer=Optimizer(name="adam"),
        rate=of.rate or study.rate,
        threads=1,
        epochs=study.epochs if of.epochs is None else of.epochs,
        out=str(out),
        resume=True,
        schedule=Schedule(name=of.schedule, warmup=study.warmup),
        transforms=of.transforms,
        trainable=of.trainable,
        compare="last epoch",
    )
    found: dict[str, Any] = {}
    with closing(train(plan, start)) as reports:
        for report in reports:
            if (last := report.result) is not None:
                found = {"accuracy": last.accuracy, "seconds": last.seconds}
                found |= {"parameters": report.parameters, "test_images": report.test_images}
            if stop.is_set():
                raise WorkerError("another run has ended the study")
    return found

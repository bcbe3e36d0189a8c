"""The story of a run: a suite's cases, grouped into races, become records."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from cnnbench.analysis import counts, stats
from cnnbench.analysis.explain import telling
from cnnbench.analysis.status import status_of
from cnnbench.errors import CnnbenchError, WorkerError
from cnnbench.networks import registry
from cnnbench.records import artifact
from cnnbench.records.environment import Environment
from cnnbench.records.layer_profile import append_profiles, read_profiles
from cnnbench.records.messages import Build, Resolve, Resolved
from cnnbench.records.peaks import read_peaks, write_peaks
from cnnbench.records.record import ArtifactFacts, Launch, Measurement, Parity, Record, Status, StepFacts
from cnnbench.records.run_folder import Store
from cnnbench.runner import machine
from cnnbench.runner.artifacts import Artifacts, forget_artifact
from cnnbench.runner.budget import BudgetEstimator
from cnnbench.runner.fork_server import ForkServer, start_fork_server, starter
from cnnbench.runner.interleave import NARROW_HALF_WIDTH, GroupMember, Outcome, measure_group
from cnnbench.runner.tasks import probe as availability
from cnnbench.runner.tasks.layer_profile import calls_for, profile_artifact
from cnnbench.runner.tasks.peaks import measure_peaks, peaks_for
from cnnbench.runner.worker_process import Worker
from cnnbench.suite.case import Case, ModelSpec
from cnnbench.suite.load import Suite

Group = list[Case]

MIN_RUN_TO_EXPLAIN_S = 180.0
"""A run that is expected to be shorter measures no ceilings, which takes about ten seconds, and profiles no model."""
PROFILES_SHARE = 0.1
"""Of the budget, for the profiles of all models."""


class Observer(Protocol):
    """Somebody who watches a run."""

    def doing(self, what: str, left_s: float) -> None:
        """Something begins, and the whole run will be over in about so many seconds."""

    def done(self, record: Record) -> None:
        """A case is finished and on disk."""


def run_suite(
    suite: Suite,
    cases: Sequence[Case],
    store: Store,
    environment: Environment,
    observer: Observer,
    budget_s: float,
) -> bool:
    """Measure the cases of a suite that the store has no finished record of; True if all were reached in time.

    Every race is launched once; what is left of the budget goes to further launches of the races whose intervals are
    widest. A finished record is measured again if what its times depend on has changed since.

    Raises ModelError, before anything is measured, for a model that cannot be built or cannot take its images.
    """
    run = _Runner(suite, store, environment, observer, BudgetEstimator(budget_s, suite.case_budgets_s))
    finished = {id_ for id_, record in store.finished().items() if record.depends in ("", run.depends_on(record.case))}
    pending = [case for case in cases if case.id not in finished]
    run.check_models(pending)
    reasons = run.find_unavailable(pending)
    runnable = [case for case in pending if case.id not in reasons]
    groups = run.groups = group_cases(runnable)
    try:
        run.measure_peaks(runnable)
        for index, group in enumerate(groups):
            if run.estimator.is_over:
                return False
            run.group(group, groups[index:])
        run.profile_models()
        run.repeat(groups)
    finally:
        run.close()
        for spec in {case.spec for case in pending}:
            forget_artifact(spec, run.run_id)
    return True


def group_cases(cases: Sequence[Case]) -> list[Group]:
    """Cases that a table sets side by side, together; in the suite's order."""
    order = {case.id: index for index, case in enumerate(cases)}
    first: dict[tuple[object, ...], int] = {}
    for case in cases:
        first.setdefault(case.group_key, order[case.id])
    ordered = sorted(cases, key=lambda case: (first[case.group_key], order[case.id]))
    return [list(group) for _, group in groupby(ordered, key=lambda case: case.group_key)]


@dataclass
class _Result:
    """What the launches of one case gave."""

    started: datetime
    group: str
    launches: list[Launch] = field(default_factory=list)
    parity: list[Parity] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """One launch more, or why there is none."""
        self.parity += outcome.parity
        self.faults += outcome.faults
        if outcome.launch is not None:
            self.launches.append(outcome.launch)
        if outcome.error is not None:
            self.errors.append(outcome.error)

    @property
    def half_width(self) -> float:
        """How wide its interval is; zero if there is nothing to be made sharper."""
        if self.errors or not self.launches:
            return 0.0
        return stats.launch_estimate([launch.call_blocks() for launch in self.launches]).half_width


@dataclass
class _Runner:
    """What the parts of one run share."""

    suite: Suite
    store: Store
    environment: Environment
    observer: Observer
    estimator: BudgetEstimator
    run_id: str = field(default_factory=lambda: uuid4().hex)
    artifacts: Artifacts = field(default_factory=Artifacts)
    groups: list[Group] = field(default_factory=list)
    results: dict[str, _Result] = field(default_factory=dict)
    """By case id: what its launches so far gave."""
    fork_servers: dict[tuple[int, int], ForkServer | None] = field(default_factory=dict)
    """By threads and number of the launch: what its workers are forked from; None where that is not possible."""

    explains: bool = False
    """Whether the run is long enough to tell also why."""

    def close(self) -> None:
        """End what was started for several races."""
        self.artifacts.builders.close()
        for fork_server in self.fork_servers.values():
            if fork_server is not None:
                fork_server.close()

    def check_models(self, cases: Sequence[Case]) -> None:
        """Have every model outside the catalogue built once; one that crashes is left for its cases to tell."""
        unknown = [spec for spec in dict.fromkeys(case.spec for case in cases) if registry.find(spec.model) is None]
        for spec in unknown:
            self.observer.doing(
                f"{spec.label}: trying the model out", self.estimator.left_s(group_cases(cases), unknown)
            )
            with (
                Worker(self._log(spec, "check"), machine.usable_threads(), self.suite.limit_s) as worker,
                contextlib.suppress(WorkerError),
            ):
                worker.ask(Resolve(spec=spec), Resolved)

    def find_unavailable(self, cases: list[Case]) -> dict[str, str]:
        """Write a record for each case that cannot run here; its reason by case id."""
        if any(case.device != "cpu" for case in cases):
            on_cpu = group_cases([case for case in cases if case.device == "cpu"])
            self.observer.doing("trying the devices", self.estimator.left_s(on_cpu, self._builds_in(on_cpu)))
        reasons, accelerators = availability.find_unavailable(cases, self.store.logs)
        if accelerators:
            self.environment = self.environment.model_copy(update={"accelerators": accelerators})
            self.store.write_environment(self.environment)
        for case in cases:
            if case.id in reasons:
                self._finish(case, "unavailable", [reasons[case.id]])
        return reasons

    def group(self, group: Group, left: Sequence[Group]) -> None:
        """Build the model's artifact if it is not there yet, run the race, and write its records."""
        spec = group[0].spec
        facts = self._artifact(spec, left)
        if isinstance(facts, str):
            for case in group:
                self._finish(case, "failed", [facts])
            return
        runnable = []
        for case in group:
            step = self._step(spec, facts, left) if case.is_exported_step else None
            if step is not None and step.error is not None:
                self._finish(
                    case, "unavailable", [f"the training step cannot be exported: {step.error}"], facts, step=step
                )
            elif case.is_exported and not case.is_exported_step and facts.onnx_error is not None:
                self._finish(case, "failed", [f"ONNX export failed: {facts.onnx_error}"], facts)
            else:
                runnable.append(case)
        if not runnable:
            return
        scale = self.estimator.scale(left, self._builds_in(left))
        began = time.monotonic()
        ends = began + self._left_s(left, scale)

        def on_progress(what: str) -> None:
            self.observer.doing(f"{_title(runnable)}: {what}", max(ends - time.monotonic(), 0.0))

        threads = group[0].threads or machine.usable_threads()
        fork_server = self._fork_server(threads, self._launches(group), on_progress)
        members = [
            GroupMember(
                case,
                artifact.folder_of(spec, facts.key),
                threads,
                starter(case.runtime, threads, self.suite.limit_s, fork_server),
                self.store.logs / f"{artifact.file_name(case.id)}.log",
            )
            for case in runnable
        ]
        budget_s = self.suite.case_budgets_s[group[0].id] * scale
        outcomes = measure_group(members, budget_s=budget_s, seed=spec.seed, on_progress=on_progress)
        timed_s = sum(Measurement(launches=[outcome.launch]).timed_s for outcome in outcomes if outcome.launch)
        if all(outcome.error is None for outcome in outcomes):  # one that hung tells nothing of the others
            self.estimator.group_measured(
                runnable, time.monotonic() - began, timed_s, [outcome.call_s for outcome in outcomes]
            )
        for outcome in outcomes:
            result = self.results.setdefault(outcome.case.id, _Result(outcome.started, outcome.group))
            result.add(outcome)
            status, reasons = status_of(result.launches, result.parity, result.faults, result.errors, facts)
            step = self._step(spec, facts, left) if outcome.case.is_exported_step else None
            self._finish(outcome.case, status, reasons, facts, result, step)

    def measure_peaks(self, cases: Sequence[Case]) -> None:
        """Write down what the machine can do, where that is not known yet and takes a small part of the budget."""
        self.explains = self._left_s(self.groups) >= MIN_RUN_TO_EXPLAIN_S
        if not self.explains:
            return
        known = {(each.device, each.threads) for each in read_peaks(self.store.folder)}
        for device, threads in peaks_for(cases):
            if (device, threads) not in known:
                self.observer.doing(f"{device}: what it can do with {threads} threads", self._left_s(self.groups))
                with contextlib.suppress(CnnbenchError):  # then they are unknown, and shown so
                    write_peaks(self.store.folder, [measure_peaks(device, threads, logs=self.store.logs)])

    def profile_models(self) -> None:
        """Profile models layer by layer, once each, while that takes a small part of the budget."""
        if not self.explains:
            return
        known = {profile.model for profile in read_profiles(self.store.folder)[0]}
        cases = [case for group in self.groups for case in group if case.id in self.results]
        began = time.monotonic()
        for case in {case.spec: case for case in telling(cases) if case.device == "cpu"}.values():
            spent = time.monotonic() - began
            facts = self._artifact(case.spec, [])
            if self.estimator.budget_left_s <= 0 or spent > PROFILES_SHARE * self.estimator.budget_s:
                return
            if case.spec.label in known or isinstance(facts, str):
                continue
            self.observer.doing(f"{case.spec.label}: where its time goes", self.estimator.budget_left_s)
            threads = case.threads or machine.usable_threads()
            call_s = stats.launch_estimate([launch.call_blocks() for launch in self.results[case.id].launches]).value
            with contextlib.suppress(CnnbenchError):  # then the report says that there is none
                profile = profile_artifact(
                    case.spec, facts, case.batch, calls_for(call_s), threads, self.fork_servers.get((threads, 0))
                )
                append_profiles(self.store.folder, [profile])

    def repeat(self, groups: Sequence[Group]) -> None:
        """Launch races again, the one with the widest interval first, while the budget lasts."""
        while True:
            fitting = [group for group in groups if self.estimator.group_s(group) < self.estimator.budget_left_s]
            open_ = {index: width for index, group in enumerate(fitting) if (width := self._width(group)) > 0}
            if not open_:
                return
            group = fitting[max(open_, key=lambda index: open_[index])]
            self.group(group, [group])

    def _width(self, group: Group) -> float:
        """The widest interval of a race's cases; zero if it has been launched often enough, or is narrow."""
        results = [self.results[case.id] for case in group if case.id in self.results]
        launches = self._launches(group)
        widest = max((result.half_width for result in results), default=0.0)
        if not 0 < launches < self.suite.launches or any(result.errors for result in results):
            return 0.0
        return widest if launches < 2 or widest > NARROW_HALF_WIDTH else 0.0

    def depends_on(self, case: Case) -> str:
        """A digest of what the case's times depend on: its model's artifact, the libraries and code that run it.

        A user's own model is known by the file that it stands in.
        """
        key = artifact.key_of(case.spec, artifact.source_digest(case.spec))
        return sha256(json.dumps([key, case.model_dump()], sort_keys=True).encode()).hexdigest()[:16]

    def _artifact(self, spec: ModelSpec, left: Sequence[Group]) -> ArtifactFacts | str:
        """The facts of the model's artifact, built if need be, or the reason why there is none."""
        key = artifact.key_of(spec, self.run_id)
        request = Build(spec=spec, key=key, folder=str(artifact.folder_of(spec, key)))
        around = partial(self._building, spec, "building, counting and exporting", left)
        return self.artifacts.artifact(request, self._log(spec, "build"), around=around)

    def _step(self, spec: ModelSpec, facts: ArtifactFacts, left: Sequence[Group]) -> StepFacts:
        """The facts of the model's exported training step, built if need be."""
        folder = artifact.folder_of(spec, facts.key)
        around = partial(self._building, spec, "exporting and proving the training step", left)
        return self.artifacts.step(spec, folder, self._log(spec, "step"), around=around)

    @contextlib.contextmanager
    def _building(self, spec: ModelSpec, what: str, left: Sequence[Group]) -> Iterator[None]:
        """Tell what is being built, and learn how long it takes if it succeeds."""
        self.observer.doing(f"{spec.label}: {what}", self._left_s(left))
        began = time.monotonic()
        yield
        self.estimator.built(spec, time.monotonic() - began)

    def _builds_in(self, groups: Sequence[Group]) -> list[ModelSpec]:
        """The models of the races whose artifacts are not there yet, and those whose training steps are not."""

        def folder(spec: ModelSpec) -> Path:
            return artifact.folder_of(spec, artifact.key_of(spec, self.run_id))

        models = {group[0].spec for group in groups}
        stepping = {case.spec for group in groups for case in group if case.is_exported_step}
        lacking = [spec for spec in models if self.artifacts.lacks(folder(spec))]
        return lacking + [spec for spec in stepping if self.artifacts.lacks_step(folder(spec))]

    def _left_s(self, left: Sequence[Group], scale: float = 1.0) -> float:
        """How long the run will still take: the races left, and further launches of all while the budget lasts."""
        first = self.estimator.left_s(left, self._builds_in(left), scale)
        more = sum(
            self.estimator.group_s(group) * (self.suite.launches - max(1, self._launches(group)))
            for group in self.groups
        )
        return first + max(0.0, min(more, self.estimator.budget_left_s - first))

    def _launches(self, group: Group) -> int:
        return max((len(self.results[case.id].launches) for case in group if case.id in self.results), default=0)

    def _fork_server(self, threads: int, launch: int, on_progress: Callable[[str], None]) -> ForkServer | None:
        """What PyTorch's workers of this launch are forked from; no two launches of a case share one."""
        key = threads, launch
        if key not in self.fork_servers:
            on_progress("importing PyTorch")
            log = self.store.logs / f"template-{threads}-{launch}.log"
            self.fork_servers[key] = start_fork_server(log, threads, self.suite.limit_s)
        return self.fork_servers[key]

    def _log(self, spec: ModelSpec, what: str) -> Path:
        return self.store.logs / f"{what}-{artifact.file_name(spec.label)}.log"

    def _finish(
        self,
        case: Case,
        status: Status,
        reasons: list[str],
        facts: ArtifactFacts | None = None,
        result: _Result | None = None,
        step: StepFacts | None = None,
    ) -> None:
        summary = counts.summary(case.spec, facts.counters) if facts else None
        if status in ("ok", "noisy") and summary and summary.closed_form and summary.disagreements:
            status, reasons = "invalid", [f"counts disagree: {summary.disagreements[0]}", *reasons]
        record = Record(
            id=case.id,
            case=case,
            status=status,
            reasons=reasons,
            started=(result.started if result else datetime.now().astimezone()).isoformat(timespec="seconds"),
            group=result.group if result else None,
            depends=self.depends_on(case),
            counts=summary,
            artifact=facts,
            step=step,
            parity=result.parity if result else [],
            measurement=Measurement(launches=result.launches) if result and result.launches else None,
            ran=result.launches[-1].ran if result and result.launches else None,
            environment=self.environment,
        )
        self.store.append(record)
        self.observer.done(record)


def _title(group: Group) -> str:
    case = group[0]
    runtimes = "+".join(dict.fromkeys(c.runtime for c in group))
    return f"{case.spec.label}/{case.workload}/{runtimes}/{case.device}/{case.precision}/b{case.batch}"

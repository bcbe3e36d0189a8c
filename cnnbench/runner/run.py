"""A run, from its cases to their records: built, measured group by group, recorded, and launched again."""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from cnnbench.errors import CnnbenchError, InputError, ModelError, RunFolderError
from cnnbench.networks import registry
from cnnbench.records import artifact, dataset
from cnnbench.records.environment import Environment
from cnnbench.records.input_times import read_input, write_input
from cnnbench.records.layer_profile import read_profiles
from cnnbench.records.peaks import write_peaks
from cnnbench.records.run_folder import Store
from cnnbench.runner import machine, plan
from cnnbench.runner.artifacts import Artifacts, Building, Built, Problem, Wanted
from cnnbench.runner.budget import Budget
from cnnbench.runner.fork_server import ForkServers, Lineage
from cnnbench.runner.interleave import GroupMember, measure_group
from cnnbench.runner.plan import Group
from cnnbench.runner.recorder import Observer, Recorder
from cnnbench.runner.serving import LOADGEN, measure_services
from cnnbench.runner.tasks.diverge import where_it_begins
from cnnbench.runner.tasks.evaluate import Evaluator, draws_of, has_weights
from cnnbench.runner.tasks.input import measure_input
from cnnbench.runner.tasks.layer_profile import profile_models
from cnnbench.runner.tasks.peaks import PEAKS_S, known_peaks, peaks_for, peaks_of
from cnnbench.runner.tasks.probe import find_unavailable
from cnnbench.runner.tasks.train_suite import check_trained
from cnnbench.suite.case import Case, ModelSpec
from cnnbench.suite.load import Suite
from cnnbench.suite.runtimes import runtime_kind

Watch = Callable[[int, int], AbstractContextManager[Observer]]
"""Begins to watch a run of so many cases, so many of them finished before."""

MIN_RUN_TO_EXPLAIN_S = 180.0
"""A run that is expected to be shorter has no peaks, which take about ten seconds, and no profiles."""
PEAKS_SHARE = 0.15
"""Of what is left of the budget: peaks that take longer are not measured."""
PROFILES_SHARE = 0.1
"""Of the budget, for the profiles of all models."""


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    left: list[str]
    """Ids of the cases that were asked for and have no finished record."""
    in_time: bool
    """Whether all cases were reached before the budget was spent."""
    interrupted: bool
    empty: bool
    """Whether there is no record at all."""
    unwritten: str = ""
    """Where and why finished records could not be written, if so; they are lost."""

    def check(self) -> None:
        """Raises KeyboardInterrupt if it was interrupted, RunFolderError if finished records are lost."""
        if self.interrupted:
            raise KeyboardInterrupt
        if self.unwritten:
            raise RunFolderError(self.unwritten)


def run(suite: Suite, cases: Sequence[Case], folder: Path, *, budget_s: float, resume: bool, watch: Watch) -> Ended:
    """Measure cases of a suite into a folder, with `resume` only those that have no finished record there.

    An interrupt by the keyboard ends it like a spent budget: what is finished is on disk. Raises RunFolderError, and
    ModelError, before anything is measured, for a model outside the registry that cannot be built; InputError for an
    input whose data or transforms do not fit, and for weights that are still to be trained.
    """
    check_trained(suite, [case.spec for case in cases])
    if suite.input and (found := dataset.find(suite.input.data)).name != (plain := found.folder or found.kind):
        # before anything is built or measured for it
        raise InputError(f"input: data: its transforms resize and normalise; expected {plain}; got {found.name}")
    environment = environment_of(suite, cases)
    in_time = interrupted = False
    with Store(folder, suite, environment, resume=resume) as store:
        finished = store.finished()
        try:
            missing = plan.unfinished(cases, finished, environment)
            with watch(len(cases), len(cases) - len(missing)) as observer:
                in_time = _measure(suite, missing, store, environment, observer, budget_s)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            unwritten = store.flush()
        finished = store.finished()
    left = [case.id for case in cases if case.id not in finished]
    if unwritten:
        unwritten += "; finished records are lost: make room, and resume the run"
    return Ended(left=left, in_time=in_time, interrupted=interrupted, empty=not finished, unwritten=unwritten)


def environment_of(suite: Suite, cases: Sequence[Case]) -> Environment:
    """The machine and its software, as cases of a suite use them."""
    return machine.environment([machine.threads_of(case) for case in cases], suite.path.resolve().parent)


def _measure(
    suite: Suite, cases: list[Case], store: Store, environment: Environment, observer: Observer, budget_s: float
) -> bool:
    """Build all, launch every group, then again those whose intervals are widest; True if all cases were reached."""
    budget = Budget(budget_s, suite.case_budgets_s, suite.launches)
    budget.first = plan.group_cases(cases)
    observer.doing("probing runtimes and devices", budget.remaining_s())
    unavailable, accelerators = find_unavailable(cases, store.logs)
    environment = environment.model_copy(update={"accelerators": accelerators})
    if cases:  # all that is not measured again was measured in such a one
        store.write_environment(environment)
    recorder = Recorder(cases, store, environment, observer)
    with (
        Artifacts(store.logs, suite.limit_s) as artifacts,
        ForkServers(store.logs, suite.limit_s) as servers,
        contextlib.closing(Evaluator(store.logs)) as evaluator,
    ):
        session = _Session(suite, store, observer, budget, artifacts, servers, recorder, evaluator)
        possible = [case for case in cases if case.id not in unavailable]
        budget.first = plan.group_cases(possible)
        explains = budget.remaining_s() >= MIN_RUN_TO_EXPLAIN_S
        session.build()
        for case in cases:
            if case.id in unavailable:
                recorder.leave_out(case, Problem("unavailable", unavailable[case.id]))
        built = [case for case in possible if session.is_built(case)]
        if explains:
            session.add_peaks(environment, [case for case in built if case.workload != "serving"])
        session.add_input(built)
        if not session.launch_each(built):
            return False
        if (late := [case for case in possible if case not in built]) and not budget.is_over:
            # Measuring the others took less than it was expected to when the last builds were put off.
            budget.first = [group for group in plan.group_cases(possible) if any(case in late for case in group)]
            session.build()
            built += [case for case in late if session.is_built(case)]
            if not session.launch_each(case for group in budget.first for case in group if case in built):
                return False
        session.explain_parity()
        if explains:
            session.add_profiles()
        while (group_again := budget.to_repeat()) is not None:
            session.launch(group_again)
    return len(built) == len(possible)


@dataclass(frozen=True)
class _Session:
    """The steps of a run, and who takes part in them."""

    suite: Suite
    store: Store
    observer: Observer
    budget: Budget
    artifacts: Artifacts
    servers: ForkServers
    recorder: Recorder
    evaluator: Evaluator

    def doing(self, what: str) -> None:
        """Tell what begins, and how long the run still takes."""
        self.observer.doing(what, self.budget.remaining_s())

    def is_built(self, case: Case) -> bool:
        """Whether all that the case runs is there, or is known to be impossible."""
        wanted = self.artifacts.wanted(case.spec, plan.steps_of(case), plan.compiled_ahead([[case]], case.spec))
        return not self.artifacts.missing(wanted)

    def build(self) -> None:
        """Build what the groups lack, until measuring what is built needs all that is left of the budget."""
        groups, budget, artifacts = self.budget.first, self.budget, self.artifacts
        evaluated = [case for group in groups for case in group if case.id in self.suite.tests]
        draws = [draw for case in evaluated if has_weights(case.spec) for draw in draws_of(case)]
        models = {
            spec: artifacts.wanted(spec, steps, plan.compiled_ahead([*groups, draws], spec))
            for spec, steps in plan.models_of(groups).items()
        }
        self._learn_references(models)
        budget.builds = artifacts.to_build(models.values())
        order = plan.build_order(models) if budget.has_time_for(groups) else list(models)

        def watch(building: Building) -> bool:
            is_own = registry.find(building.spec.model) is None
            if is_own and isinstance(artifacts.find(models[building.spec]).error, ModelError) and building.error:
                raise building.error
            if building.seconds is None:
                self.doing(f"{building.spec.label}: {building.what}")
            else:
                budget.built(building.spec, building.seconds)
                self._learn_references(models)
            budget.builds = artifacts.to_build(models.values())
            ready = [group for group in groups if all(map(self.is_built, group))]
            return not ready or budget.has_time_for(ready, alone=True)

        artifacts.build([models[spec] for spec in order], watch)
        budget.builds = []

    def _learn_references(self, models: Mapping[ModelSpec, Wanted]) -> None:
        """Tell the budget how fast this machine ran the models that are built."""
        known = {spec: self.artifacts.find(wanted).facts for spec, wanted in models.items()}
        seconds = {spec: facts.seconds.get("reference") for spec, facts in known.items() if facts}
        self.budget.learn_references({spec: each for spec, each in seconds.items() if each and not spec.is_onnx_file})

    def leave_out(self, case: Case) -> bool:
        """Record why a case cannot be run, if that is so."""
        ahead = plan.compiled_ahead([[case]], case.spec)
        built = self.artifacts.find(self.artifacts.wanted(case.spec, plan.steps_of(case), ahead))
        if problem := built.problem(case):
            self.recorder.leave_out(case, problem, built)
        return problem is not None

    def launch_each(self, cases: Iterable[Case]) -> bool:
        """Measure these cases in their groups, or record why they cannot be run; False if the budget is too short."""
        self.budget.first = plan.group_cases([case for case in cases if not self.leave_out(case)])
        reached_all = True
        for number, group in enumerate(self.budget.first):
            if number and self.budget.is_over:
                return False
            if number and not self.budget.fits(group):
                reached_all = False  # shorter ones may fit
                continue
            self.launch(group)
        return reached_all

    def launch(self, group: Group) -> None:
        """Measure a group in fresh workers, and record each case."""
        threads, number = machine.threads_of(group[0]), self.recorder.launches(group)
        lineages = {case: Lineage(threads, number, case.allocator) for case in group}
        for case in group:
            if runtime_kind(case.runtime).runs_in_torch:
                self.servers.server(lineages[case])  # here, so that what it takes is not counted as the group's
        built = self.artifacts.find(self.artifacts.wanted(group[0].spec))
        members = [
            GroupMember(
                case,
                built.folder,
                threads,
                self.servers.starter(case.runtime, lineages[case]),
                self.store.logs / f"{artifact.file_name(case.id)}.log",
            )
            for case in group
        ]
        title, allowance, seed = plan.title(group), self.budget.allowance(group), group[0].spec.seed

        def on_progress(what: str) -> None:
            self.doing(f"{title}: {what}")

        if group[0].workload == "serving":
            earlier, logs = {case: self.recorder.launched(case) for case in group}, self.store.folder / LOADGEN
            outcomes = measure_services(members, allowance, earlier, logs, seed=seed, on_progress=on_progress)
        else:
            outcomes = measure_group(members, allowance, seed=seed, on_progress=on_progress)
        for outcome in outcomes:
            self.recorder.add(outcome, built)
        self.budget.measured(group, outcomes, self.recorder.half_width(group))
        self.evaluate(group, built)

    def evaluate(self, group: Group, built: Built) -> None:
        """Have what a group timed classify the test images that the suite names, once."""
        for case in group:
            if (test := self.suite.tests.get(case.id)) and self.recorder.awaits_evaluation(case):
                self.doing(f"{case.id}: evaluating on {test.data}")
                evaluation = self.evaluator.evaluate(case, test, built, self.budget.until_overdrawn_s)
                self.recorder.evaluated(case, evaluation, built)

    def explain_parity(self) -> None:
        """Find the layer where outputs that differ from the reference begin to, while there is time."""
        for case in self.recorder.wrong():
            if self.budget.is_over:
                return
            self.doing(f"{case.id}: looking for the layer where its outputs part from float64")
            built = self.artifacts.find(self.artifacts.wanted(case.spec))
            with contextlib.suppress(CnnbenchError, OSError):  # then it is not known
                if begins := where_it_begins(case, built.folder, self.store.logs):
                    self.recorder.explain(case, begins, built)

    def add_peaks(self, environment: Environment, cases: Sequence[Case]) -> None:
        """Write down what the machine can do at best, where it can be known."""
        for device, threads in peaks_for(cases):
            known = known_peaks(device, threads, environment)
            if known is None and PEAKS_S[device] > PEAKS_SHARE * self.budget.left_s:
                continue
            self.doing(f"{device}: peaks with {threads} threads")
            with contextlib.suppress(CnnbenchError, OSError):  # then they are unknown, and shown so
                write_peaks(
                    self.store.folder, [known or peaks_of(device, threads, environment, self.store.logs, anew=True)]
                )

    def add_input(self, cases: Sequence[Case]) -> None:
        """Write down how fast the suite's images become batches, where it asks for that and it is not known."""
        if (plan_ := self.suite.input) is None or self.budget.is_over:
            return
        with contextlib.suppress(RunFolderError):  # one that cannot be read is measured anew
            if (known := read_input(self.store.folder)) and known.plan == plan_ and not known.failure:
                return
        self.doing("input: decoding, transforms, batches")
        trained = [case for case in cases if case.workload == "training"] or cases
        device = trained[0].device if trained else "cpu"
        threads = machine.threads_of(trained[0]) if trained else machine.usable_threads()
        write_input(self.store.folder, measure_input(plan_, device, threads, self.store.logs))

    def add_profiles(self) -> None:
        """Profile models layer by layer, once each, while that takes a small part of the budget."""
        ends_s = self.budget.left_s - PROFILES_SHARE * self.budget.budget_s

        def go_on(model: str, number: int, count: int) -> bool:
            self.doing(f"{model}: profiling its layers")
            return self.budget.left_s > max(ends_s, 0.0)

        known = {profile.model for profile in read_profiles(self.store.folder)[0]}
        profile_models(self.store.folder, self.recorder.call_s(), self.artifacts, self.servers, go_on, leave_out=known)

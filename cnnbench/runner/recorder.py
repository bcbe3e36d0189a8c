"""What launches found out becomes records, each written down at once."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Protocol

from cnnbench.analysis import counts
from cnnbench.analysis.serving import service_of
from cnnbench.analysis.stats import Estimate, launch_estimate
from cnnbench.analysis.status import status_of
from cnnbench.records import artifact
from cnnbench.records.environment import Environment
from cnnbench.records.evaluation import Evaluation
from cnnbench.records.lines import digest_of
from cnnbench.records.reason import Reason
from cnnbench.records.record import Launch, Measurement, Record, Status
from cnnbench.records.run_folder import Store
from cnnbench.runner.artifacts import Built, Problem
from cnnbench.runner.interleave import Outcome
from cnnbench.runner.plan import Group
from cnnbench.suite.case import Case


class Observer(Protocol):
    """Somebody who watches a run."""

    def doing(self, what: str, left_s: float) -> None:
        """Something begins, and the whole run will be over in about so many seconds."""

    def done(self, record: Record) -> None:
        """A case is finished and on disk."""


class Recorder:
    """Keeps the outcomes of each case, and appends its record after each launch; a full disk ends nothing."""

    def __init__(self, cases: Iterable[Case], store: Store, environment: Environment, observer: Observer) -> None:
        self._store, self._environment, self._observer = store, environment, observer
        self._outcomes: dict[Case, list[Outcome]] = {}
        self._begins: dict[Case, str] = {}
        """Where outputs part from the reference, of cases whose outputs do."""
        self._evaluations: dict[Case, Evaluation | None] = {}
        self._depends = {case: artifact.depends_on(case) for case in cases}
        """Before anything is built of them: a file that changes during the run makes its cases be measured again."""

    def leave_out(self, case: Case, problem: Problem, built: Built | None = None) -> None:
        """Record why a case was not measured."""
        self._write(case, problem.status, [problem.reason], built, [])

    def add(self, outcome: Outcome, built: Built) -> None:
        """Record a launch, with those before it."""
        self._outcomes.setdefault(outcome.case, []).append(outcome)
        self._record(outcome.case, built)

    def wrong(self) -> list[Case]:
        """The cases whose outputs differ from the reference."""
        parity = {case: [each for launch in all_ for each in launch.parity] for case, all_ in self._outcomes.items()}
        return [case for case, found in parity.items() if not all(each.passed for each in found)]

    def explain(self, case: Case, begins: str, built: Built) -> None:
        """Record where the outputs of a case part from the reference."""
        self._begins[case] = begins
        self._record(case, built)

    def awaits_evaluation(self, case: Case) -> bool:
        """Whether it was timed, and nobody has tried to evaluate it yet."""
        return case not in self._evaluations and bool(self.launched(case))

    def evaluated(self, case: Case, evaluation: Evaluation | None, built: Built) -> None:
        """Record the accuracy of what was timed; None where it has none."""
        self._evaluations[case] = evaluation
        if evaluation is not None:
            self._record(case, built)

    def _record(self, case: Case, built: Built) -> None:
        outcomes = self._outcomes[case]
        status, reasons = status_of(
            [each.launch for each in outcomes if each.launch is not None],
            [parity for each in outcomes for parity in each.parity],
            [fault for each in outcomes for fault in each.faults],
            [each.error for each in outcomes if each.error is not None],
            built.facts,
        )
        if begins := self._begins.get(case):
            reasons = [*reasons, Reason(code="parity", detail=begins)]
        if (evaluation := self._evaluations.get(case)) and evaluation.problem:
            reasons = [*reasons, Reason(code="no-accuracy", detail=evaluation.problem)]
        self._write(case, status, reasons, built, outcomes)

    def launches(self, group: Group) -> int:
        """How often the group was launched."""
        return max(len(self._outcomes.get(case, ())) for case in group)

    def half_width(self, group: Group) -> float | None:
        """Of the widest interval of the group's cases; None if a launch failed, or a case was not timed."""
        outcomes = [each for case in group for each in self._outcomes.get(case, ())]
        if not outcomes or any(each.launch is None for each in outcomes):
            return None
        services = [service_of(self.launched(case)) for case in group]
        return max(
            service.half_width if service else self.estimate(case).half_width
            for case, service in zip(group, services, strict=True)
        )

    def launched(self, case: Case) -> list[Launch]:
        """The launches of a case that did not fail."""
        return [each.launch for each in self._outcomes.get(case, ()) if each.launch is not None]

    def call_s(self) -> dict[Case, float]:
        """Seconds of a call of each case that was timed."""
        timed = [case for case in self._outcomes if any(launch.blocks for launch in self.launched(case))]
        return {case: self.estimate(case).value for case in timed}

    def estimate(self, case: Case) -> Estimate:
        """Of a call of a case that was timed."""
        return launch_estimate([launch.call_blocks() for launch in self.launched(case)])

    def _write(
        self, case: Case, status: Status, reasons: list[Reason], built: Built | None, outcomes: Sequence[Outcome]
    ) -> None:
        summary = counts.summary(case.spec, built.facts) if built and built.facts else None
        if status in ("ok", "noisy") and summary and summary.closed_form and summary.disagreements:
            status, reasons = "invalid", [Reason(code="counts", detail=summary.disagreements[0]), *reasons]
        where = {"environment": digest_of(self._environment)}
        launches = [each.launch.model_copy(update=where) for each in outcomes if each.launch is not None]
        record = Record(
            case=case,
            status=status,
            reasons=reasons,
            started=(outcomes[0].started if outcomes else datetime.now().astimezone()).isoformat(timespec="seconds"),
            depends=self._depends[case],
            counts=summary,
            artifact=built.facts if built else None,
            step=built.steps.get(case.trainable) if built and case.is_exported_step else None,
            graph=built.graph(case) if built else None,
            parity=[parity for each in outcomes for parity in each.parity],
            evaluation=self._evaluations.get(case),
            measurement=Measurement(launches=launches) if launches else None,
            environment=self._environment,
        )
        self._store.append(record)
        self._observer.done(record)

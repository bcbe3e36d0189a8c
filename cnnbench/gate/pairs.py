"""Pairs of launches, measured with real workers: both arms alive and interleaved, each launch a process of its own."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import log
from pathlib import Path
from random import Random
from statistics import median
from uuid import uuid4

from cnnbench.analysis.kernel import is_much, kernel_share
from cnnbench.analysis.serving import rate_at_bound
from cnnbench.analysis.stats import NOISY_HALF_WIDTH, time_estimate, trend, two_modes
from cnnbench.analysis.status import status_of
from cnnbench.analysis.times import shared_blocks
from cnnbench.gate.arms import Arm
from cnnbench.gate.verdict import ArmComparison, ArmName, Paired, Stage
from cnnbench.records import artifact
from cnnbench.records.reason import Reason
from cnnbench.records.record import Launch, Ran
from cnnbench.runner import machine
from cnnbench.runner.artifacts import Artifacts, Building, Built, Wanted
from cnnbench.runner.fork_server import ForkServers, Lineage
from cnnbench.runner.interleave import LEAST_WARMUP_S, Allowance, GroupMember, Outcome, measure_group
from cnnbench.runner.plan import compiled_ahead, models_of, steps_of
from cnnbench.runner.serving import LOADGEN, measure_services
from cnnbench.runner.worker_process import Interpreter
from cnnbench.suite.case import Case, Frozen, ModelSpec

MAX_PADDING = 4096
WARMUP_OF_PAIR = 0.5
"""Of a launch's measuring time: the least warm-up of launches that are compared with each other alone."""


class Pair(Frozen):
    """A pair as it is kept: raw values only."""

    comparison: str
    stage: str
    number: int
    order: list[ArmName]
    """In which the launches were started."""
    launches: dict[ArmName, Launch] = {}
    missing: str = ""
    wrong: str = ""

    def paired(self) -> Paired:
        """The result that verdicts are computed from."""
        if self.missing:
            return Paired(tuple(self.order), {}, missing=self.missing)
        if any(launch.serving for launch in self.launches.values()):
            return self._served()
        times = {arm: time_estimate(launch.call_blocks()).value for arm, launch in self.launches.items()}
        base = self.launches.get("base")
        others = {arm: launch for arm, launch in self.launches.items() if arm != "base"}
        rounds = {arm: Rounds.of(base, launch) for arm, launch in others.items()} if base else {}
        head = rounds.get("head")
        return Paired(
            tuple(self.order),
            {arm: each.log_ratio for arm, each in rounds.items()},
            times,
            unsteady=head is not None and head.is_unsteady,
            interference=any(each.interference for each in rounds.values()),
            in_kernel=any(is_much(kernel_share([launch])) for launch in self.launches.values()),
            wrong=self.wrong,
        )

    def _served(self) -> Paired:
        """Of services: the time from one query to the next, at the highest rate within the bound."""
        launches = {arm: launch.serving for arm, launch in self.launches.items() if launch.serving}
        times = {arm: 1 / rate for arm, launch in launches.items() if (rate := rate_at_bound(launch)) is not None}
        if untold := [arm for arm in launches if arm not in times]:
            launch = launches[untold[0]]
            why = f"no highest rate with p99 within {1e3 * launch.bound_s:.3g} ms was found: {launch.stopped}"
            return Paired(tuple(self.order), {}, lost=f"{untold[0]}: {why}; give the case a larger case_budget")
        base_s = times.get("base")
        return Paired(
            tuple(self.order),
            {arm: log(call_s / base_s) for arm, call_s in times.items() if arm != "base"} if base_s else {},
            times,
            interference=any(test.interference for launch in launches.values() for test in launch.tests),
            wrong=self.wrong,
        )


@dataclass(frozen=True)
class Rounds:
    """Two launches measured in interleaved rounds."""

    ratios: tuple[float, ...]
    """Head's time over base's in each round; what slows a round down cancels."""
    interference: bool
    """Whether too few rounds were free of interference, so that all are used."""

    @classmethod
    def of(cls, base: Launch, head: Launch) -> "Rounds":
        """Over rounds without interference in either launch, or over all if those are fewer than six."""
        blocks, interference = shared_blocks(base, head)
        ratios = tuple(
            median(above.totals_s()) / head.calls_per_sample / (median(below.totals_s()) / base.calls_per_sample)
            for below, above in blocks
        )
        return cls(ratios, interference)

    @property
    def log_ratio(self) -> float:
        """Of the median round."""
        return log(median(self.ratios))

    @property
    def is_unsteady(self) -> bool:
        """Whether the ratio drifted, or had two modes."""
        change = trend(self.ratios)
        return (change is not None and abs(change) > NOISY_HALF_WIDTH) or two_modes(self.ratios) is not None


class Pairs(ExitStack):
    """Measures pairs, and writes each down as soon as it is there."""

    def __init__(
        self,
        base: Arm,
        head: Arm,
        logs: Path,
        limit_s: float,
        rng: Random,
        keep: Callable[[Pair], None],
        slowdown: float = 0.0,
    ) -> None:
        """`slowdown`: by how much every call of head is slowed down on purpose."""
        super().__init__()
        self.base, self.head, self.logs, self.limit_s, self.slowdown = base, head, logs, limit_s, slowdown
        self.ran: dict[tuple[str, str], Ran] = {}
        """By case and arm: what really ran, in the last launch."""
        self._run_id, self._rng, self._keep = uuid4().hex, rng, keep
        self._last: dict[str, Launch] = {}
        """By comparison, base's last launch."""
        self._outputs: dict[ModelSpec, str] = {}
        """By model: how head's outputs differ from base's on the same images and weights; empty if they do not."""
        self._artifacts = self.enter_context(Artifacts(logs, limit_s))
        self._servers = self.enter_context(ForkServers(logs, limit_s, self._padded))

    def build(self, comparisons: Sequence[ArmComparison], on_progress: Callable[[str], None]) -> None:
        """Build all that is measured: base's artifacts, then those of head that are others, with base's weights."""

        def watch(building: Building) -> bool:
            if building.seconds is None:
                on_progress(f"{building.spec.label}: {building.what}")
            return True

        for name in ("base", "head"):
            cases = [[comparison.case(name) for comparison in comparisons]]
            wanted = [
                replace(self._wanted(name, spec, steps), ahead=compiled_ahead(cases, spec))
                for spec, steps in models_of(cases).items()
            ]
            self._artifacts.build(wanted, watch)

    def measure(
        self, comparison: ArmComparison, stage: Stage, order: Sequence[ArmName], number: int, scale: float
    ) -> Paired:
        """One fresh launch of each arm, all alive together and measured interleaved."""
        launches: dict[ArmName, Launch] = {}
        checked = self.check(comparison)
        missing, wrong = checked.missing, checked.wrong
        if not checked.problem:
            self._servers.close(before=number - 1)  # each block has two pairs
            members = [self._member(comparison, arm, number) for arm in order]
            outcomes = self._outcomes(comparison, members, number, scale)
            by_arm = dict(zip(order, outcomes, strict=True))
            launches = {arm: each.launch for arm, each in by_arm.items() if each.launch is not None}
            if (base := launches.get("base")) is not None:
                self._last[comparison.name] = base
            self.ran |= {(comparison.name, arm): launch.ran for arm, launch in launches.items() if launch.ran}
            missing = _first((arm, each.error) for arm, each in by_arm.items())
            wrong = _first((arm, self._wrong(comparison, arm, each)) for arm, each in by_arm.items())
        pair = Pair(
            comparison=comparison.name,
            stage=stage,
            number=number,
            order=list(order),
            launches=launches,
            missing=missing,
            wrong=wrong,
        )
        self._keep(pair)
        return pair.paired()

    def _outcomes(
        self, comparison: ArmComparison, members: Sequence[GroupMember], number: int, scale: float
    ) -> list[Outcome]:
        seed = self._rng.randrange(2**31)
        if comparison.base.workload != "serving":
            launch_s = comparison.launch_s * scale
            # A pair's arms are equally warm, and what the first half second is slower by cancels in their ratio.
            least_s = WARMUP_OF_PAIR * launch_s if len(members) > 1 else LEAST_WARMUP_S
            allowance = Allowance(launch_s, least_warmup_s=min(least_s, LEAST_WARMUP_S))
            return measure_group(members, allowance, seed=seed)
        # A search is not shortened: it would find no end. It begins where base's last one ended.
        known = self._last.get(comparison.name)
        earlier = {member.case: [known] if known else [] for member in members}
        logs = self.logs / LOADGEN / str(number)
        return measure_services(members, Allowance(comparison.launch_s), earlier, logs, seed=seed, rate_alone=True)

    def folder(self, name: ArmName, spec: ModelSpec) -> Path:
        """Where the model's artifact lies, for one arm."""
        return self._wanted(name, spec).folder

    def _wrong(self, comparison: ArmComparison, arm: ArmName, outcome: Outcome) -> str | None:
        if outcome.launch is None:
            failed = [parity for parity in outcome.parity if not parity.passed]
            return str(status_of([], failed)[1][0]) if failed else None
        facts = self._built(arm, comparison.case(arm)).facts
        status, reasons = status_of([outcome.launch], outcome.parity, outcome.faults, (), facts)
        return str(reasons[0]) if status == "invalid" else None

    def check(self, comparison: ArmComparison) -> Paired:
        """Without times: its `problem` tells why the comparison cannot be measured, or would compare two things."""
        for name in ("base", "head"):
            case = comparison.case(name)
            if problem := self._built(name, case).problem(case):
                return Paired((), {}, missing=f"{name}: {problem.reason}")
        spec = comparison.base.spec
        if spec not in self._outputs:
            base, head = self.folder("base", spec), self.folder("head", spec)
            self._outputs[spec] = difference_of_outputs(base, head) if base != head else ""
        return Paired((), {}, wrong=self._outputs[spec])

    def _member(self, comparison: ArmComparison, name: ArmName, number: int) -> GroupMember:
        case = comparison.case(name)
        lineage = Lineage(machine.threads_of(case), number, case.allocator, self._environment(name).interpreter)
        return GroupMember(
            case,
            self.folder(name, case.spec),
            lineage.threads,
            self._servers.starter(case.runtime, lineage),
            self.logs / f"{name}-{artifact.file_name(case.id)}.log",
            self.slowdown if name == "head" else 0.0,
        )

    def _environment(self, name: ArmName) -> Arm:
        """The arm whose environment it runs in: base, where both have one, so that one process forks all workers."""
        return self.head if name == "head" and self.head.source != self.base.source else self.base

    def _wanted(self, name: ArmName, spec: ModelSpec, steps: tuple[str, ...] = ()) -> Wanted:
        """A model for one arm; of head in another environment, with base's weights, so that both compute the same."""
        arm, base = self._environment(name), self.base
        key = artifact.key_of(spec, self._run_id + base.source, base.toolchain)
        if arm is base or (not spec.depends_on_code and arm.toolchain == base.toolchain):
            return Wanted(spec, key, steps, base.interpreter)
        weights = artifact.folder_of(spec, key) / artifact.WEIGHTS
        key = artifact.key_of(spec, self._run_id + arm.source, arm.toolchain, weights_of=key)
        return Wanted(spec, key, steps, arm.interpreter, weights)

    def _built(self, name: ArmName, case: Case) -> Built:
        return self._artifacts.find(self._wanted(name, case.spec, steps_of(case)))

    def _padded(self, interpreter: Interpreter) -> Interpreter:
        """With an environment of a random size, so that where the stack begins is noise and not bias."""
        padding = {"CNNBENCH_PADDING": "x" * self._rng.randrange(MAX_PADDING)}
        return replace(interpreter, variables={**interpreter.variables, **padding})


def difference_of_outputs(base: Path, head: Path) -> str:
    """How head's float64 outputs differ from base's, on the same images; empty if they do not, or cannot be compared.

    They can where parameters have the same names and shapes: head was then built with base's weights.
    """
    from safetensors import safe_open
    from safetensors.numpy import load_file

    shapes = []
    for folder in (base, head):
        with safe_open(folder / artifact.WEIGHTS, framework="numpy") as weights:
            shapes.append({name: weights.get_slice(name).get_shape() for name in weights.keys()})  # noqa: SIM118
    facts = artifact.read_facts(base)
    if shapes[0] != shapes[1] or facts is None:
        return ""
    goldens = (load_file(folder / artifact.GOLDEN) for folder in (base, head))
    base_outputs, head_outputs = (
        {name: golden[name] for name in golden if name.startswith("reference")} for golden in goldens
    )
    if base_outputs.keys() != head_outputs.keys():
        return f"{len(head_outputs)} outputs in head, {len(base_outputs)} in base"
    error = 0.0
    for name, expected in base_outputs.items():
        got = head_outputs[name]
        if expected.shape != got.shape:
            return f"outputs of shape {got.shape} in head, {expected.shape} in base"
        error = max(error, float(abs(got - expected).max()) / (facts.output_rms or 1.0))
    if error <= facts.parity_limit:
        return ""
    return f"head's outputs differ from base's by {error:.1e} of the output RMS, with the same weights and images"


def _first(reasons: Iterable[tuple[ArmName, Reason | str | None]]) -> str:
    return next((f"{arm}: {reason}" for arm, reason in reasons if reason), "")

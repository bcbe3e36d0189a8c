"""Pairs of launches, measured with real workers: both arms alive and in turn, each launch a process of its own."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import log
from pathlib import Path
from random import Random
from statistics import median

from cnnbench.analysis.stats import NOISY_HALF_WIDTH, time_estimate, trend, two_modes
from cnnbench.analysis.status import status_of
from cnnbench.gate.arms import Arm
from cnnbench.gate.procedure import ArmComparison, ArmName, Paired, Stage
from cnnbench.records import artifact
from cnnbench.records.messages import Build
from cnnbench.records.reason import Reason
from cnnbench.records.record import MIN_TURNS, ArtifactFacts, Launch, Ran, StepFacts
from cnnbench.runner import machine
from cnnbench.runner.artifacts import Artifacts
from cnnbench.runner.fork_server import ForkServer, start_fork_server, starter
from cnnbench.runner.interleave import GroupMember, Outcome, measure_group
from cnnbench.runner.worker_process import Interpreter
from cnnbench.suite.case import Case, Frozen, ModelSpec

MAX_PADDING = 4096


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
        """What a judge needs of it."""
        times = {arm: time_estimate(launch.call_blocks()).value for arm, launch in self.launches.items()}
        base = self.launches.get("base")
        rounds: dict[ArmName, Rounds] = {}
        if base is not None:
            rounds = {arm: Rounds.of(base, launch) for arm, launch in self.launches.items() if arm != "base"}
        head = rounds.get("head")
        return Paired(
            tuple(self.order),
            {arm: each.log_ratio for arm, each in rounds.items()},
            times,
            unsteady=head is not None and head.is_unsteady,
            interference=any(each.interference for each in rounds.values()),
            missing=self.missing,
            wrong=self.wrong,
        )


@dataclass(frozen=True)
class Rounds:
    """Two launches that were measured in turn, round by round."""

    ratios: tuple[float, ...]
    """Head's time over base's, of each round's turns; what slows a round down cancels."""
    interference: bool
    """Whether counters saw something beside so many rounds that they were taken all the same."""

    @classmethod
    def of(cls, base: Launch, head: Launch) -> "Rounds":
        """Of the rounds that nothing disturbed in either, or of all where there are fewer than six of them."""
        of_base = {block.round: block for block in base.blocks}
        both = [(of_base[block.round], block) for block in head.blocks if block.round in of_base]
        clean = [(below, above) for below, above in both if not below.interference and not above.interference]
        chosen = clean if len(clean) >= MIN_TURNS else both
        ratios = tuple(
            median(above.totals_s()) / head.calls_per_sample / (median(below.totals_s()) / base.calls_per_sample)
            for below, above in chosen
        )
        return cls(ratios, interference=len(clean) < MIN_TURNS)

    @property
    def log_ratio(self) -> float:
        """Of the median round."""
        return log(median(self.ratios))

    @property
    def is_unsteady(self) -> bool:
        """Whether the ratio drifted, or had two modes."""
        change = trend(self.ratios)
        return (change is not None and abs(change) > NOISY_HALF_WIDTH) or two_modes(self.ratios) is not None


@dataclass
class Pairs:
    """Measures pairs, and writes each down as soon as it is there."""

    base: Arm
    head: Arm
    logs: Path
    limit_s: float
    run_id: str
    rng: Random
    keep: Callable[[Pair], None]
    slowdown: float = 0.0
    """By how much every call of head is slowed down on purpose."""
    artifacts: Artifacts = field(default_factory=Artifacts)
    own_models: dict[str, ModelSpec] = field(default_factory=dict)
    """Of the user, by the keys of their artifacts, which nobody else can use."""
    outputs: dict[ModelSpec, str] = field(default_factory=dict)
    """By model: how head's outputs differ from base's on the same images and weights; empty if they do not."""
    ran: dict[tuple[str, str], Ran] = field(default_factory=dict)
    """By case and arm: what really ran, in the last launch."""
    fork_servers: dict[tuple[str, int, int], ForkServer | None] = field(default_factory=dict)
    """By interpreter, threads and number of the pair."""

    def close(self) -> None:
        """End all processes, and delete what only this gate could use."""
        self._forget_fork_servers(-1)
        self.artifacts.builders.close()
        for key, spec in self.own_models.items():
            artifact.remove(spec, key)

    def measure(
        self, comparison: ArmComparison, stage: Stage, order: Sequence[ArmName], number: int, scale: float
    ) -> Paired:
        """One fresh launch of each arm, all alive together and measured in turn."""
        pair = Pair(comparison=comparison.name, stage=stage, number=number, order=list(order))
        missing, wrong = self._problems(comparison)
        if not missing and not wrong:
            self._forget_fork_servers(number)
            members = [self._entry(comparison, arm, number) for arm in order]
            outcomes = measure_group(members, budget_s=comparison.launch_s * scale, seed=self.rng.randrange(2**31))
            by_arm = dict(zip(order, outcomes, strict=True))
            self.ran |= {(comparison.name, arm): each.ran for arm, each in by_arm.items() if each.ran is not None}
            pair = pair.model_copy(
                update={
                    "launches": {arm: each.launch for arm, each in by_arm.items() if each.launch is not None},
                    "missing": _first((arm, each.error) for arm, each in by_arm.items()),
                    "wrong": _first((arm, self._wrong(comparison, arm, each)) for arm, each in by_arm.items()),
                }
            )
        else:
            pair = pair.model_copy(update={"missing": missing, "wrong": wrong})
        self.keep(pair)
        return pair.paired() if not pair.missing else Paired(tuple(order), {}, missing=pair.missing)

    def _wrong(self, comparison: ArmComparison, arm: ArmName, outcome: Outcome) -> str | None:
        if outcome.launch is None:
            failed = [parity for parity in outcome.parity if not parity.passed]
            return str(status_of([], failed)[1][0]) if failed else None
        facts = self._artifact(self._arm(arm), self._case(comparison, arm).spec)
        assert isinstance(facts, ArtifactFacts)
        status, reasons = status_of([outcome.launch], outcome.parity, outcome.faults, (), facts)
        return str(reasons[0]) if status == "invalid" else None

    def _problems(self, comparison: ArmComparison) -> tuple[str, str]:
        """Why the duel cannot be measured, or cannot be compared; both empty if it can."""
        for arm, case in ((self.base, comparison.base), (self.head, comparison.head)):
            facts = self._artifact(arm, case.spec)
            if isinstance(facts, Reason):
                return f"{arm.name}: {facts}", ""
            if case.is_exported and facts.onnx_error:
                return f"{arm.name}: ONNX export failed: {facts.onnx_error}", ""
            if case.is_exported_step and (error := self._step(arm, case.spec, facts).error):
                return f"{arm.name}: the training step cannot be exported: {error}", ""
        spec = comparison.base.spec
        if spec not in self.outputs:
            base, head = self.folder(self.base, spec), self.folder(self.head, spec)
            self.outputs[spec] = difference_of_outputs(base, head) if base != head else ""
        return "", self.outputs[spec]

    def _entry(self, comparison: ArmComparison, name: ArmName, number: int) -> GroupMember:
        arm, case = self._arm(name), self._case(comparison, name)
        threads = case.threads or machine.usable_threads()
        padded = _padded(arm.interpreter, self.rng)
        fork_server = self._fork_server(arm, threads, number)
        return GroupMember(
            case,
            self.folder(arm, case.spec),
            threads,
            starter(case.runtime, threads, self.limit_s, fork_server, padded),
            self.logs / f"{name}-{artifact.file_name(case.id)}.log",
            self.slowdown if name == "head" else 0.0,
        )

    def _arm(self, name: ArmName) -> Arm:
        return self.head if name == "head" else self.base

    def _case(self, comparison: ArmComparison, name: ArmName) -> Case:
        return comparison.head if name == "head" else comparison.base

    def _fork_server(self, arm: Arm, threads: int, number: int) -> ForkServer | None:
        """What PyTorch's workers of this pair are forked from: arms of one environment share where libraries lie."""
        key = (arm.source, threads, number)
        if key not in self.fork_servers:
            log = self.logs / f"template-{arm.name}.log"
            self.fork_servers[key] = start_fork_server(log, threads, self.limit_s, _padded(arm.interpreter, self.rng))
        return self.fork_servers[key]

    def _forget_fork_servers(self, number: int) -> None:
        """End those of blocks before this pair's; each block has two."""
        for key in [key for key in self.fork_servers if number < 0 or key[2] < number - 1]:
            fork_server = self.fork_servers.pop(key)
            if fork_server is not None:
                fork_server.close()

    def _key(self, arm: Arm, spec: ModelSpec) -> str:
        base = artifact.key_of(spec, self.run_id + self.base.source, self.base.toolchain)
        same = arm.source == self.base.source or (not spec.is_users_own and arm.toolchain == self.base.toolchain)
        return base if same else artifact.key_of(spec, self.run_id + arm.source, arm.toolchain, weights_of=base)

    def folder(self, arm: Arm, spec: ModelSpec) -> Path:
        """Where the model's artifact lies, for one arm."""
        return artifact.folder_of(spec, self._key(arm, spec))

    def _artifact(self, arm: Arm, spec: ModelSpec) -> ArtifactFacts | Reason:
        """Of head in another environment: with base's weights, so that both compute the same."""
        key, folder, base = self._key(arm, spec), self.folder(arm, spec), self.folder(self.base, spec)
        if spec.is_users_own:
            self.own_models[key] = spec
        weights = str(base / artifact.WEIGHTS) if folder != base else None
        request = Build(spec=spec, key=key, folder=str(folder), weights=weights)
        return self.artifacts.artifact(request, self.logs / f"build-{arm.name}.log", arm.interpreter)

    def _step(self, arm: Arm, spec: ModelSpec, facts: ArtifactFacts) -> StepFacts:
        folder = artifact.folder_of(spec, facts.key)
        return self.artifacts.step(spec, folder, self.logs / f"step-{arm.name}.log", arm.interpreter)


def difference_of_outputs(base: Path, head: Path) -> str:
    """How head's float64 outputs differ from base's, on the same images; empty if they do not, or cannot be compared.

    They are compared where both have parameters of the same names and shapes: head was then built with base's weights.
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
    expected, got = (load_file(folder / artifact.GOLDEN)["reference"] for folder in (base, head))
    if expected.shape != got.shape:
        return f"outputs of shape {got.shape} in head, {expected.shape} in base"
    error = float(abs(got - expected).max()) / facts.output_rms
    if error <= facts.parity_limit:
        return ""
    return f"head's outputs differ from base's by {error:.1e} of the signal, with the same weights and images"


def _first(reasons: Iterable[tuple[ArmName, Reason | str | None]]) -> str:
    return next((f"{arm}: {reason}" for arm, reason in reasons if reason), "")


def _padded(interpreter: Interpreter, rng: Random) -> Interpreter:
    """With an environment of a random size, so that where the stack begins is noise and not bias."""
    padding = {"CNNBENCH_PADDING": "x" * rng.randrange(MAX_PADDING)}
    return replace(interpreter, variables={**interpreter.variables, **padding})

"""A record: all that is known of one case on one machine, and the parts it is made of.

Schema history (a reader accepts its own version and older ones):
    1   first version
    2   several launches per case, each with its race and what really ran; turns that were disturbed; layouts
    3   exported training steps
    4   the golden images that a training step is proved on
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, PositiveInt, model_validator

from cnnbench.records.environment import Environment
from cnnbench.suite.case import Case, Frozen

SCHEMA_VERSION = 4

Status = Literal["ok", "noisy", "invalid", "failed", "unavailable"]
"""
ok           measured, and what ran is what was asked
noisy        measured, but the interval of its median is wide, or there is none
invalid      measured or not: something is wrong with it, so it is left out of comparisons
failed       its process crashed, hung, or ran out of memory
unavailable  this machine, or this version, cannot run it
"""

MIN_TURNS = 6
"""The fewest turns whose medians give an interval at 95 %."""

MEASURED: tuple[Status, ...] = ("ok", "noisy")
"""The statuses whose times may be compared."""

Counts = dict[str, tuple[int, int]]
"""(parameters, MACs for one image) by layer name; layers that have neither are left out."""


def _renamed(**names: str) -> Any:
    """A validator that reads the keys of older schemas under today's names."""

    def rename(content: Any) -> Any:
        if not isinstance(content, Mapping):
            return content
        return {names.get(key, key): value for key, value in content.items()}

    return model_validator(mode="before")(rename)


class Published(Frozen):
    """What torchvision's weights say of a model, read from their metadata; nothing is downloaded."""

    weights: str
    params: int
    giga_macs: float | None
    """MACs for one image in units of 1e9, rounded to three decimals by the publisher."""
    image_size: int | None
    """Side of the square images that the figures are for."""
    top1_percent: float | None
    """ImageNet-1K accuracy of the pretrained weights."""


class CounterResults(Frozen):
    """Who says what of a model's parameters and MACs; a witness that could not speak is in `silent`."""

    _renamed = _renamed(silent="failed")

    closed_form: Counts | None
    """None for a model that has no closed form."""
    counted: dict[str, Counts]
    """By witness: `module` (parameters alone), `dispatch` and `fvcore` (MACs alone), `onnx` (both, of what inference
    needs), `backward` (MACs of the backward pass, for one image)."""
    published: Published | None = None
    failed: dict[str, str] = {}
    """Witnesses that could not be heard, with the reason."""


class CountsSummary(Frozen):
    """The counts of a model in a record: totals, and every disagreement between witnesses."""

    _renamed = _renamed(witnesses="counters")

    params: int
    macs: int
    """For one image."""
    closed_form: bool
    """Whether the totals are the closed form's; else the module's and the dispatch counter's."""
    counters: list[str]
    """Those that were heard."""
    disagreements: list[str]
    top1_percent: float | None = None


class Parity(Frozen):
    """How far one batch of outputs is from the float64 reference, relative to the part that depends on the input.

    error = max |y - reference| / signal, signal = root mean square of (reference - its mean over the images).
    """

    what: str
    """`eager` or `ort`, and when: `ort b3`, `timed b8`."""
    error: float | None
    """None if an output was not finite or had another shape."""
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the error is known and within its limit."""
        return self.error is not None and self.error <= self.limit


class ArtifactFacts(Frozen):
    """What building an artifact found out; stored beside it as `artifact.json`."""

    _renamed = _renamed(witnesses="counters", signal="output_rms")

    key: str
    """Digest of everything that the artifact depends on."""
    input_shape: tuple[int, ...]
    """(C, H, W) of one image, or (C, L) of one signal."""
    classes: int
    weight_bytes: int
    onnx_bytes: int | None
    onnx_error: str | None = None
    """Why there is no graph, where the export failed."""
    opset: int | None = None
    output_rms: float
    """Root mean square of the part of the reference output that depends on the input."""
    eager_error: float
    """Of eager float32 on the CPU where the artifact was built, in units of the signal."""
    parity_limit: float
    """The largest error that a float32 run may show, in units of the signal."""
    denormal_share: float = 0.0
    """The largest share of one layer's activations that are denormal numbers, on the golden images."""
    seconds: dict[str, float]
    """Time of each stage: instantiate, count, condition, reference, export, check."""
    counters: CounterResults
    versions: dict[str, str]


class StepFacts(Frozen):
    """What exporting a training step found out; stored beside it as `step.json`."""

    error: str | None = None
    """Why there is no step, where it cannot be exported: the operator, and where it stands."""
    onnx_bytes: int | None = None
    nodes: int | None = None
    first_image: int = 0
    """Of the golden images that it was proved on; each launch is proved on the same."""
    losses: list[float] = []
    """Of consecutive steps on these images with nothing dropped, in float64 by torch and its optimizer."""
    loss_limit: float = 0.0
    """How far from these, relative to the first, a float32 run may be."""
    parity: list[Parity] = []
    """Of the graph in ONNX Runtime when it was built: losses, and the worst parameter, buffer and state."""
    seconds: dict[str, float] = {}
    """Time of each stage: trace and write, check, prove."""


class Memory(Frozen):
    """Resident memory of the worker process, in bytes, and on CUDA that of the device."""

    imported_bytes: int
    """After the runtime's libraries were imported, before the model was loaded."""
    loaded_bytes: int
    """After loading and the parity check, before timing."""
    peak_bytes: int
    """The largest while being timed, after the warm-up."""
    device_allocated_bytes: int | None = None
    device_reserved_bytes: int | None = None
    """The most that torch's allocator held while being timed; None in other runtimes."""
    device_used_bytes: int | None = None
    """On the whole device when the launch ended, by whoever: with what the driver, libraries and others hold."""


def _check_times(seconds: dict[str, list[float]]) -> dict[str, list[float]]:
    """Raises ValueError for what no clock gives: the file or the worker that says so is damaged."""
    lengths = {len(samples) for samples in seconds.values()}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError("expected as many samples of each phase, one at least")
    if not all(0 < sum(parts) < math.inf for parts in zip(*seconds.values(), strict=True)):
        raise ValueError("expected times above zero")
    return seconds


PhaseSeconds = Annotated[dict[str, list[float]], AfterValidator(_check_times)]
"""By phase, the seconds of each sample."""


class Block(Frozen):
    """One turn of a race: consecutive samples of one worker."""

    _renamed = _renamed(disturbed="interference")

    round: int
    seconds: PhaseSeconds
    """By phase, the seconds of each sample: a block of `calls_per_sample` calls."""
    interference: list[str] = []
    """What the system's counters say went on beside it, where that was too much: it is left out of statistics."""
    joules: float | None = None
    """What the processor packages used meanwhile, where the system tells."""

    def totals_s(self) -> list[float]:
        """Seconds of each sample over all phases."""
        return [sum(parts) for parts in zip(*self.seconds.values(), strict=True)]


class Launch(Frozen):
    """One worker process: how it started and what it measured. Raw values only."""

    _renamed = _renamed(race="group", turns="blocks", steady="converged")

    import_s: float
    load_s: float
    """Weights or graph into a session that can run."""
    first_call_s: float
    warmup_calls: int
    warmup_s: float
    converged: bool
    """Whether the warm-up ended because the times were steady, not because its limit was reached."""
    calls_per_sample: PositiveInt
    blocks: list[Block]
    stopped: str
    """Why sampling ended."""
    memory: Memory
    group: str = ""
    """The race that it was measured in: launches of one race share rounds."""
    ran: "Ran | None" = None

    def usable(self) -> list[Block]:
        """The turns that statistics rest on: those that nothing disturbed, or all where those are too few."""
        clean = [block for block in self.blocks if not block.interference]
        return clean if len(clean) >= MIN_TURNS else self.blocks

    def call_blocks(self, phase: str | None = None) -> list[list[float]]:
        """Seconds per call of each sample of each usable turn: of one phase, or of all."""
        return [
            [seconds / self.calls_per_sample for seconds in (block.seconds[phase] if phase else block.totals_s())]
            for block in self.usable()
        ]


class Measurement(Frozen):
    """The launches of one case."""

    launches: list[Launch]

    def times(self, phase: str | None = None) -> list[list[list[float]]]:
        """Seconds per call of each sample, by launch and usable turn: of one phase, or of all."""
        return [launch.call_blocks(phase) for launch in self.launches]

    @property
    def blocks_with_interference(self) -> int:
        """How many turns the system's counters call disturbed."""
        return sum(bool(block.interference) for launch in self.launches for block in launch.blocks)

    @property
    def all_blocks(self) -> int:
        """How many turns there are."""
        return sum(len(launch.blocks) for launch in self.launches)

    def joules_per_image(self, batch: int) -> float | None:
        """Energy of the usable turns by their images, where the system told that of every one."""
        blocks = [(launch, block) for launch in self.launches for block in launch.usable()]
        joules = [block.joules for _, block in blocks]
        if not blocks or None in joules:
            return None
        images = batch * sum(launch.calls_per_sample * len(block.totals_s()) for launch, block in blocks)
        return sum(filter(None, joules)) / images

    @property
    def timed_s(self) -> float:
        """Seconds spent inside timed calls."""
        return sum(sum(block.totals_s()) for launch in self.launches for block in launch.blocks)


class Ran(Frozen):
    """What really ran, as the runtime itself says."""

    device: str
    device_name: str
    threads: int
    precision: str
    facts: dict[str, Any] = {}
    """The runtime's own: providers, TF32, session options, whether torch was in the process."""


class Record(BaseModel):
    """All that is known of one case on one machine. Statistics are computed from it and never stored in it."""

    _renamed = _renamed(race="group")

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1, 2, 3, 4] = 4
    id: str
    case: Case
    status: Status
    reasons: list[str] = []
    started: str
    """Local time with its offset, ISO 8601."""
    group: str | None = None
    """The race of its first launch."""
    depends: str = ""
    """Digest of what its times depend on beside the machine's mood; measured again on resuming if that has changed."""
    counts: CountsSummary | None = None
    artifact: ArtifactFacts | None = None
    step: StepFacts | None = None
    """Of a case that runs the exported training step."""
    parity: list[Parity] = []
    measurement: Measurement | None = None
    ran: Ran | None = None
    environment: Environment | None = None
    """None where it is not known."""

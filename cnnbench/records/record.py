"""A record: all that is known of one case on one machine, and the parts it is made of.

Schema history (a reader accepts its own version and older ones):
    1   first version
    2   several launches per case, each with its comparison group and what really ran; blocks with interference; layouts
    3   exported training steps
    4   the reference images that a training step is checked on
    5   reasons and interference by code, what really ran by field, and what records share once in a file of its own
    6   channels, inputs and weights of a model; several inputs and outputs; no MACs where nothing could count them all
    7   a model's own loss
    8   training steps that write over what they have read
    9   the part of a model that a case trains; its modules in order, its heads, and weights that were begun anew
    10  precision as a property of what runs: `bf16` and `fp16` were automatic mixed precision before, now `amp-bf16`
        and `amp-fp16`; the graph of a precision, agreement, and the share of MACs by number format;
        services: the bound, sessions and delay of a case, and what LoadGen measured;
        training on several ranks

`upgrade.py` reads the older ones.
"""

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

from cnnbench.records.bounds import Count, Figure, Moment, PositiveCount, Recorded, Seconds
from cnnbench.records.environment import Environment
from cnnbench.records.evaluation import Evaluation
from cnnbench.records.reason import Code, Interference, Reason
from cnnbench.records.serving import ServingLaunch
from cnnbench.suite.case import Case, Size

SCHEMA_VERSION = 10
SAME_SHAPE = (5, 6, 7, 8, 9, SCHEMA_VERSION)
"""The versions whose records today's types read as they are."""

Status = Literal["ok", "noisy", "invalid", "failed", "unavailable"]
"""
ok           measured, and what ran is what was asked
noisy        measured, but the interval of its median is wide, or there is none
invalid      measured or not: something is wrong with it, so it is left out of comparisons
failed       its process crashed, hung, or ran out of memory
unavailable  this machine, or this version, cannot run it
"""

MIN_BLOCKS = 6
"""The fewest blocks whose medians give an interval at 95 %."""

STATUSES: tuple[Status, ...] = get_args(Status)
"""From best to worst."""
MEASURED: tuple[Status, ...] = ("ok", "noisy")
"""The statuses whose times may be compared."""

MIN_SHARE = 0.5
"""Of the MACs, that must run in the precision that is asked for."""

Counter = Annotated[str, Field(pattern="^(module|dispatch|fvcore|onnx|backward)$")]
Counts = dict[str, tuple[Count, Count]]
"""(parameters, MACs for one image) by layer name; layers that have neither are left out."""


class Published(Recorded):
    """What torchvision's weights say of a model, read from their metadata; nothing is downloaded."""

    weights: str
    params: Count
    giga_macs: Figure | None
    """MACs for one image in units of 1e9, rounded to three decimals by the publisher."""
    image_size: Size | None
    """Side of the square images that the figures are for."""
    top1_percent: Figure | None
    """ImageNet-1K accuracy of the pretrained weights."""
    miou_percent: Figure | None = None
    """Of a segmentation network: mean intersection over union on the images of COCO val2017 that have Pascal VOC's
    classes."""


class CounterResults(Recorded):
    """What each counter found of a model's parameters and MACs; a counter that failed is in `failed`."""

    closed_form: Counts | None
    """None for a model that has no closed form."""
    counted: dict[Counter, Counts]
    """By counter: `module` (parameters alone), `dispatch` and `fvcore` (MACs alone), `onnx` (both, of what inference
    needs), `backward` (MACs of the backward pass, for one image)."""
    published: Published | None = None
    failed: dict[str, str] = {}
    """Counters that failed, with the reason."""


class CountsSummary(Recorded):
    """The counts of a model in a record: totals, and every disagreement between counters."""

    params: Count
    macs: Count | None
    """For one image; None where no counter could count all."""
    closed_form: bool
    """Whether the totals are the closed form's; else the module's and the dispatch counter's."""
    counters: list[str]
    """Those that gave figures."""
    disagreements: list[str]
    top1_percent: Figure | None = None
    miou_percent: Figure | None = None


class Parity(Recorded):
    """How far one batch of outputs is from the float64 reference, relative to the part that depends on the input.

    error = max |y - reference| / output RMS, output RMS = root mean square of (reference - its mean over the images).
    """

    what: str
    """`eager` or `ort`, and when: `ort b3`, `timed b8`."""
    error: Figure | None
    """None if an output was not finite or had another shape."""
    limit: Figure
    agreement: Figure | None = None
    """Share of the images whose largest output is in the same place; known below float32 alone."""

    @property
    def passed(self) -> bool:
        """Whether the error is known and within its limit."""
        return self.error is not None and self.error <= self.limit


class ArtifactFacts(Recorded):
    """What building an artifact found out; stored beside it as `artifact.json`."""

    key: str
    """Digest of everything that the artifact depends on."""
    input_shape: tuple[Size, ...]
    """(C, H, W) of one image, or (C, L) of one signal; of the first input, where there are several."""
    classes: PositiveCount
    """The size of the output's first axis behind the batch."""
    inputs: dict[str, tuple[Size, ...]] = {}
    """The shape of each input by its name, where there are several."""
    outputs: list[tuple[Count, ...]] = []
    """The shape of each output, where they are not logits (classes)."""
    order: list[str] = []
    """Submodules with parameters or buffers of their own, in the order in which a training pass first uses them."""
    heads: list[str] = []
    """Of each output in training, the main one first, the last submodule with parameters; empty if not certain."""
    begun_anew: list[str] = []
    """Tensors that a file of weights for another number of classes does not have, so that they are random."""
    writes_input: bool = False
    """Whether the module changes its inputs, so that it is given copies."""
    mixes_images: bool = False
    """Whether an image's outputs depend on the other images of its batch, in inference too."""
    constants: list[str] = []
    """Of an ONNX file, inputs that are the same for all images, such as a scalar or a state."""
    batch: PositiveCount | None = None
    """The only batch that an ONNX file takes; None if it takes any."""
    whole_outputs: list[Count] = []
    """Of an ONNX file, the places of outputs whose first axis is not the batch."""
    reference_by: str = "torch in float64"
    """What computed the reference outputs."""
    weight_bytes: Count
    onnx_bytes: Count | None
    onnx_error: str | None = None
    """Why there is no graph, where the export failed."""
    opset: int | None = None
    output_rms: float
    """Root mean square of the part of the reference output that depends on the input."""
    eager_error: float
    """Of eager float32 on the CPU where the artifact was built, in units of the output RMS."""
    parity_limit: float
    """The largest error that a float32 run may show, in units of the output RMS."""
    denormal_share: float = 0.0
    """The largest share of one layer's activations that are denormal numbers, on the reference images."""
    seconds: dict[str, Seconds]
    """Time of each stage: instantiate, count, condition, reference, export, check."""
    counters: CounterResults
    versions: dict[str, str]

    @property
    def places(self) -> tuple[int, ...]:
        """(H, W) of a dense prediction (classes, H, W), each place of which has a label; empty for one of an image."""
        return tuple(self.outputs[0][1:]) if self.outputs else ()


class StepFacts(Recorded):
    """What exporting a training step found out; stored beside it as `step.json`."""

    error: str | None = None
    """Why there is no step, where it cannot be exported or proved: the operator, and where it stands."""
    onnx_bytes: Count | None = None
    nodes: Count | None = None
    first_image: int = 0
    """Of the reference images that it was checked on; each launch is checked on the same."""
    losses: list[float] = []
    """Of consecutive steps on these images with nothing dropped, in float64 by torch and its optimizer."""
    loss_limit: float = 0.0
    """How far from these, relative to the first, a float32 run may be."""
    parity: list[Parity] = []
    """Of the graph in ONNX Runtime when it was built: losses, and the worst parameter, buffer and state."""
    in_place: bool = False
    """Whether steps that write over what they have read gave the same bits on the CPU."""
    seconds: dict[str, Seconds] = {}
    """Time of each stage: trace and write, check, prove."""


class PackageFacts(Recorded):
    """What compiling a case ahead found out; stored beside the package."""

    error: str | None = None
    """Why there is no package, where the model cannot be exported."""
    package_bytes: Count | None = None
    seconds: dict[str, Seconds] = {}
    """Time of each stage: export, compile."""


class GraphFacts(Recorded):
    """What making a graph for a precision found out; stored beside it."""

    error: str | None = None
    """Why there is no graph: a value overflows, or its operators cannot be counted."""
    graph_bytes: Count | None = None
    """None where the engine makes it of the exported graph."""
    macs: dict[str, Count] = {}
    """For one image, by the name of the node."""
    own_error: Figure | None = None
    """Of the graph, its nodes computed one by one in float32 on the CPU, against float64: the root mean square in units
    of the output RMS, of int8 the sine of the angle; where images are of data, the worst of batches of 1, 2 and 3. None
    where it is not finite."""
    agreement: Figure | None = None
    """Share of the reference images whose largest output is in the same place then."""
    calibration_images: Count = 0
    calibration_digest: str = ""
    """Of the images that decided the ranges of what is quantised."""
    reference_digest: str = ""
    """Of the images that outputs are compared on, where they are of the data that it is calibrated with; empty where
    they are the artifact's."""
    source: str = ""
    """Digest of the files that these were read from, by their names, sizes and times; empty for generated ones."""
    seconds: dict[str, Seconds] = {}
    """Time of each stage: prepare, make, check."""


class Memory(Recorded):
    """Resident memory of the worker process, in bytes, and on CUDA that of the device."""

    imported_bytes: Count
    """After the runtime's libraries were imported, before the model was loaded."""
    loaded_bytes: Count
    """After loading and the parity check, before timing."""
    peak_bytes: Count
    """The largest while being timed, after the warm-up."""
    device_allocated_bytes: Count | None = None
    device_reserved_bytes: Count | None = None
    """The most that torch's allocator held while being timed; None in other runtimes."""
    device_used_bytes: Count | None = None
    """On the whole device when the launch ended, by whoever: with what the driver, libraries and others hold."""


def _totals_s(seconds: dict[str, list[float]]) -> list[float]:
    """Of each sample, over all phases."""
    first, *others = seconds.values()
    return list(map(sum, zip(first, *others, strict=True))) if others else first


def _check_times(seconds: dict[str, list[float]]) -> dict[str, list[float]]:
    """Raises ValueError for what no clock gives: the file or the worker that says so is damaged."""
    lengths = {len(samples) for samples in seconds.values()}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError("expected as many samples of each phase, one at least")
    totals = _totals_s(seconds)
    if not (min(totals) >= 1e-12 and max(totals) < 1e9):
        raise ValueError("expected times above zero, as a clock gives them")
    return seconds


PhaseSeconds = Annotated[dict[str, list[Seconds]], AfterValidator(_check_times)]
"""By phase, the seconds of each sample."""


class Usage(Recorded):
    """What the operating system counted in a worker, over all its threads, during the timed calls of a block."""

    user_s: Seconds
    kernel_s: Seconds
    """CPU time in the operating system's kernel on the process's behalf, most of it for page faults."""
    minor_faults: Count
    """Pages that the process touched for the first time since it got them."""
    major_faults: Count
    """Pages that were read from a disk."""


class Block(Recorded):
    """Consecutive samples of one worker."""

    round: Count
    seconds: PhaseSeconds
    """By phase, the seconds of each sample: a block of `calls_per_sample` calls."""
    interference: list[Interference] = []
    """What the system's counters say went on beside it, where that was too much: it is left out of statistics."""
    joules: Figure | None = None
    """What the processor packages used meanwhile, where the system tells."""
    usage: Usage | None = None
    """None where the system does not tell, and in older runs."""

    def totals_s(self) -> list[float]:
        """Seconds of each sample over all phases."""
        return _totals_s(self.seconds)


class Launch(Recorded):
    """One worker process: how it started and what it measured. Raw values only."""

    import_s: Seconds
    load_s: Seconds
    """Weights or graph into a session that can run."""
    first_call_s: Seconds
    warmup_calls: Count
    warmup_s: Seconds
    converged: bool
    """Whether the warm-up ended because the times were steady, not because its limit was reached."""
    calls_per_sample: PositiveCount
    blocks: Annotated[list[Block], Field(max_length=1000)]
    """A case's budget is cut into about twenty."""
    stopped: str
    """Why sampling ended."""
    memory: Memory
    group: str = ""
    """The comparison group that it was measured in: launches of one group share rounds."""
    ran: "Ran | None" = None
    environment: str = ""
    """The digest of the environment that it was measured in; empty where that is not known."""
    serving: ServingLaunch | None = None
    """Of a service, which has no blocks."""

    def usable(self) -> list[Block]:
        """The blocks that statistics rest on: those without interference, or all where those are too few."""
        clean = [block for block in self.blocks if not block.interference]
        return clean if len(clean) >= MIN_BLOCKS else self.blocks

    @property
    def timed_s(self) -> float:
        """Seconds spent inside timed calls."""
        return sum(sum(block.totals_s()) for block in self.blocks)

    def call_blocks(self, phase: str | None = None) -> list[list[float]]:
        """Seconds per call of each sample of each usable block: of one phase, or of all."""
        return [
            [seconds / self.calls_per_sample for seconds in (block.seconds[phase] if phase else block.totals_s())]
            for block in self.usable()
        ]


class Measurement(Recorded):
    """The launches of one case."""

    launches: Annotated[list[Launch], Field(min_length=1, max_length=1000)]

    def times(self, phase: str | None = None) -> list[list[list[float]]]:
        """Seconds per call of each sample, by launch and usable block: of one phase, or of all."""
        return [launch.call_blocks(phase) for launch in self.launches]

    def joules_per_image(self, batch: int) -> float | None:
        """Energy of the usable blocks by their images, where the system told that of every one."""
        blocks = [(launch, block) for launch in self.launches for block in launch.usable()]
        joules = [block.joules for _, block in blocks if block.joules is not None]
        images = batch * sum(launch.calls_per_sample * len(block.totals_s()) for launch, block in blocks)
        return sum(joules) / images if joules and len(joules) == len(blocks) else None


class AllReduce(Recorded):
    """All-reduces of one size, between the ranks of a case."""

    bytes: PositiveCount
    """Of each rank's buffer."""
    seconds: Annotated[list[Seconds], Field(min_length=1, max_length=1000)]
    """Of each repetition on the slowest rank."""


class Ranks(Recorded):
    """What was measured, behind the timed steps, of how several ranks train together."""

    count: PositiveCount
    backend: str
    all_reduces: list[AllReduce]
    step_s: Annotated[list[Seconds], Field(max_length=1000)]
    """Of steps on the slowest rank, alternating with those below; the mean of each block."""
    apart_s: Annotated[list[Seconds], Field(max_length=1000)]
    """Of the same steps without their all-reduce, so that each rank trains on its own."""


class Ran(Recorded):
    """What really ran, as the runtime itself says."""

    device: str
    device_name: str
    threads: Count
    precision: str
    allocator: str | None = None
    """What serves malloc; None where nobody can tell."""
    torch_in_process: bool | None = None
    """None where nobody looked."""
    tf32: bool | None = None
    """Whether matrix products or convolutions may be computed in TF32; None where the device has none."""
    providers: list[str] = []
    """Execution providers, in order of preference."""
    nodes: dict[str, Count] = {}
    """By execution provider, how many nodes of the graph it runs."""
    operators: dict[str, Count] = {}
    """Nodes of the optimised graph."""
    graph_optimization: str | None = None
    graph_breaks: dict[str, Count] = {}
    """Of torch.compile, by reason."""
    shares: dict[str, Figure] = {}
    """Of the MACs by the number format that they ran in, where the graph was made for a precision."""
    elsewhere: list[str] = []
    """The largest nodes that ran in another format than asked."""
    ranks: Ranks | None = None
    """None on one rank."""
    facts: dict[str, bool | int | float | str | None] = {}
    """What else the libraries say of themselves: versions and settings, by the library's own names."""

    def faults(self, case: Case) -> list[Reason]:
        """Where it is not what the case asks."""
        pairs: tuple[tuple[Code, object, object], ...] = (
            ("device", case.device, self.device),
            ("precision", case.format, case.format if self.shares else self.precision),
            ("threads", case.threads or self.threads, self.threads),
            ("allocator", case.allocator, case.allocator if case.allocator == "default" else self.allocator),
        )
        found = [
            Reason(code=code, detail=f"requested {asked}, got {ran}") for code, asked, ran in pairs if asked != ran
        ]
        if self.shares and self.shares.get(case.format, 0.0) < MIN_SHARE:
            others = sorted((share, name) for name, share in self.shares.items() if name != case.format)
            shares = " and ".join(f"{share:.0%} of MACs ran in {name}" for share, name in reversed(others))
            detail = f"asked {case.format}; {shares}: {', '.join(self.elsewhere)}"
            found.append(Reason(code="precision", detail=detail))
        return found


class Record(Recorded):
    """All that is known of one case on one machine. Statistics are computed from it and never stored in it."""

    case: Case
    status: Status
    reasons: list[Reason] = []
    started: Moment
    depends: str = ""
    """Digest of what its times depend on beside the machine's mood; measured again on resuming if that has changed."""
    counts: CountsSummary | None = None
    artifact: ArtifactFacts | None = None
    step: StepFacts | None = None
    """Of a case that runs the exported training step."""
    graph: GraphFacts | None = None
    """Of a case whose graph was made for its precision."""
    parity: list[Parity] = []
    evaluation: Evaluation | None = None
    """Of an inference case whose suite names data, and whose weights are not random."""
    measurement: Measurement | None = None
    environment: Environment | None = None
    """None where it is not known."""

    @property
    def id(self) -> str:
        """The case's."""
        return self.case.id

    @property
    def launches(self) -> list[Launch]:
        """None if it was not measured."""
        return self.measurement.launches if self.measurement else []

    @property
    def group(self) -> str | None:
        """The comparison group of its first launch."""
        return self.launches[0].group if self.launches else None

"""Messages of tasks, for each of which a worker of its own is started.

Probes, peaks, layer profiles, training, evaluation.
"""

from typing import Literal

from cnnbench.networks.trainable import ALL
from cnnbench.records.dataset import DataSet, Scaling
from cnnbench.records.messages import Request
from cnnbench.records.peaks import Bandwidth, CallCost, Throughput
from cnnbench.records.study_result import Tried
from cnnbench.records.training_history import EpochResult
from cnnbench.suite.case import Case, Device, Frozen, ModelSpec, RuntimeName, Trainable
from cnnbench.suite.input_plan import InputPlan
from cnnbench.suite.optimizer import Optimizer
from cnnbench.suite.runtimes import Library
from cnnbench.suite.schedule import Schedule


class Probe(Request):
    """Try a device in a runtime, by running something on it."""

    op: Literal["probe"] = "probe"
    runtime: RuntimeName
    device: Device


class Probed(Frozen):
    """Whether it works, and its name or the reason why not."""

    works: bool
    name: str = ""
    reason: str = ""
    formats: tuple[str, ...] | None = None
    """The number formats that it computes in here; None where nothing says so."""


class MeasurePeaks(Request):
    """Measure what a device can do at best, through one library."""

    op: Literal["measure_peaks"] = "measure_peaks"
    library: Library
    device: Device
    threads: int
    kernel_s: float
    """About how long each kernel is repeated."""
    largest_set_bytes: int
    """Of the working sets that memory is measured with."""


class MeasuredPeaks(Frozen):
    """What it could do: repetitions, and what could not be measured, with the reason."""

    device_name: str
    throughputs: list[Throughput]
    bandwidths: list[Bandwidth]
    calls: list[CallCost]
    failures: dict[str, str]


class Profile(Request):
    """Have a runtime's own profiler watch some calls of a case, in a process where nothing is timed for comparison."""

    op: Literal["profile"] = "profile"
    case: Case
    folder: str
    scratch: str
    """A folder that exists, for files that nobody needs afterwards."""
    calls: int


class LayerTimes(Frozen):
    """What ran under one name."""

    name: str
    operators: list[str]
    """In the runtime's own words."""
    seconds: list[float]
    """Of each call."""


class Profiled(Frozen):
    """What the profiler saw: operators by module, and those that belong to no module that is known."""

    modules: list[str]
    """That were called, in order, where the runtime has modules; a module contains those whose names go on from its."""
    layers: list[LayerTimes]
    """By the innermost module, in the order in which they first ran."""
    other: list[LayerTimes]
    """By operator."""
    call_s: list[float]
    """Of each whole call, by the host's clock."""


class StartTraining(Request):
    """Read a data set, build a model with random weights from its seed, and be ready to train it."""

    op: Literal["start_training"] = "start_training"
    spec: ModelSpec
    runtime: Literal["eager", "ort"]
    data: DataSet
    batch: int
    optimizer: Optimizer
    rate: float
    threads: int
    epochs: int
    out: str
    """The weights' file; a history and a checkpoint stand beside it."""
    resume: bool = False
    """Go on from the checkpoint, if there is one."""
    schedule: Schedule = Schedule()
    label_smoothing: float = 0.0
    patience: int | None = None
    """Stop after so many epochs in which no more of the held-out images were put into the right class."""
    held_out: float = 0.1
    """The share of the training images that this is asked of, and that no step sees."""
    transforms: list[str] = []
    """Of torchvision.transforms.v2, each applied to every training image with other random numbers in each epoch."""
    trainable: Trainable = ALL
    compare: Literal["each epoch", "last epoch"] = "each epoch"
    """When test images are put to the runtime that does not train, too."""


class TrainingStarted(Frozen):
    """Ready."""

    train_images: int
    test_images: int
    parameters: int
    """Of the model, trained or not."""
    steps_per_epoch: int
    done: list[EpochResult] = []
    """Epochs of the run that it goes on with."""
    over: bool = False
    """Whether early stopping has ended that run."""


class Advance(Request):
    """Train for about so long, or until the epoch is over."""

    op: Literal["advance"] = "advance"
    seconds: float


class Epoch(Frozen):
    """How far it came."""

    steps: int
    loss: float | None
    """Mean over these steps; None where there was none."""
    seconds: float
    """That they took."""
    over: bool


class Evaluate(Request):
    """End an epoch: try the weights on the test images, in every runtime, and write weights, history, checkpoint."""

    op: Literal["evaluate"] = "evaluate"


class Evaluated(Frozen):
    """The epoch, and whether early stopping ends the run."""

    result: EpochResult
    over: bool


class MeasureInput(Request):
    """Measure how long images take from where they are stored to a batch on the device; answered by `InputTimes`."""

    op: Literal["measure_input"] = "measure_input"
    plan: InputPlan
    data: DataSet
    """That the plan names."""
    device: Device
    threads: int


class Examine(Request):
    """Look at the gradients of a model with its first weights, and at the answers of the trained one."""

    op: Literal["examine"] = "examine"
    spec: ModelSpec
    data: DataSet
    weights: str | None
    """The file of the trained model; None where it was not trained."""
    under: dict[str, list[float]]
    """How the first test images are changed, and by how much."""
    images: int
    """How many of them."""
    threads: int


class Examined(Frozen):
    """What was found."""

    parameters: int
    gradients: dict[str, float]
    """By layer, in order, the norm of the weights' gradient."""
    tried: list[Tried]


class PrepareTest(Request):
    """Read a data set's test images, as they are stored, into a file that workers without its libraries can map."""

    op: Literal["prepare_test"] = "prepare_test"
    data: DataSet
    shape: tuple[int, ...]
    """(C, H, W) of the model's images, or (C, L) of its signals."""
    classes: int | None
    """Of the model; None where labels are not used."""
    out: str
    """The file, which ends in `.npy`."""
    count: int | None = None
    """Only so many, of each class as many as of any other, and as the model takes them: (N, *shape) float32."""
    at_most: int | None = None
    """Only so many, of each class as many as of any other, as they are stored."""


class TestPrepared(Frozen):
    """What there is to classify."""

    classes: list[str]
    """Names of the data set's."""
    labels: list[int]
    """Of each image."""
    scaling: Scaling


class StartClassifying(Request):
    """Load a case's artifact into its runtime, and be ready to classify images; after `load`."""

    op: Literal["start_classifying"] = "start_classifying"
    case: Case
    folder: str
    """The artifact's."""
    images: str
    """The file that `prepare_test` wrote."""
    scaling: Scaling


class ClassifyingStarted(Frozen):
    """Ready."""


class Classify(Request):
    """Go on for about so long, or until the last image."""

    op: Literal["classify"] = "classify"
    seconds: float


class Classified(Frozen):
    """The classes of the next images."""

    classes: list[int]
    is_torch_in_process: bool


class Value(Frozen):
    """A tensor of floats inside a network, named as torch.export names it, or a value of an ONNX file."""

    module: str
    """The innermost module that computes it; empty for the outermost, and in an ONNX file the node."""
    name: str
    """The operation's, such as `relu_1`; in an ONNX file the value's."""
    output: int = 0
    """Which of the operation's outputs it is."""
    operator: str
    shape: tuple[int, ...]
    inputs: list[int] = []
    """The places of the values that it is computed from, the nearest ones that are listed."""


class OwnInput(Frozen):
    """What is put into a model instead of reference images."""

    file: str
    """A picture, or numbers."""
    is_batch: bool = False
    """Whether it is the whole batch (N, ...) as the model takes it, in `.npy`; else one image, which is scaled."""


class OpenReference(Request):
    """List the values of a model, in order, before they are read in float64."""

    op: Literal["open_reference"] = "open_reference"
    spec: ModelSpec
    folder: str
    """The artifact's."""
    golden: str
    """The file in it of the reference images, which are put in where there is no image of the user's."""
    batch: int
    threads: int
    image: OwnInput | None = None


class ReferenceOpened(Frozen):
    """A model's values; an index in this list is a value's place."""

    values: list[Value]


class OpenLayers(Request):
    """Prepare a run of a case, or of an ONNX file of the user's, and find which of the values it has."""

    op: Literal["open_layers"] = "open_layers"
    name: str
    """By which the run is read, one of several in the process."""
    case: Case
    folder: str
    """The artifact's."""
    golden: str
    """As for the reference."""
    file: str | None
    """The user's ONNX file, instead of the artifact's graph."""
    scratch: str
    values: list[Value]
    threads: int
    image: OwnInput | None = None


class LayersOpened(Frozen):
    """The places of the values that the run has as it is shipped: those that no fusion has done away with."""

    places: list[int]
    operators: list[str]
    """Of each, what computes it in the run's own words."""
    nodes: list[str] = []
    """Of each, the node of the graph before it is optimised, where the run is a graph."""
    at_once: bool = False
    """Whether the run holds all its values at once."""


class Annotate(Request):
    """Write a copy of an ONNX file with notes in its nodes' metadata."""

    op: Literal["annotate"] = "annotate"
    file: str
    out: str
    notes: dict[str, dict[str, str]]
    """By node, the keys and values of its metadata."""


class Annotated(Frozen):
    """Written."""

    graph: str
    """The graph's own name."""


class ReadReference(Request):
    """Compute the values up to a place in float64, into files, and what float32 makes of the same layers."""

    op: Literal["read_reference"] = "read_reference"
    until: int
    folder: str
    cuts: list[list[int]]
    """For each run, the places whose values it has."""


class Rounding(Frozen):
    """The error of one layer in float32, fed with the reference's values, by torch or onnx's own implementation."""

    rms: float
    largest: float


class ReferenceRead(Frozen):
    """For each run, the rounding of each of its values, by place."""

    rounding: list[dict[int, Rounding]]
    off: float | None = None
    """At the end, how far the outputs are from the model's own in float64, in their RMS; None where that is unknown."""


class ReadLayers(Request):
    """Compute a run's values up to a place, into files: as it runs, and each layer fed with the reference's values."""

    op: Literal["read_layers"] = "read_layers"
    until: int
    folder: str
    name: str
    """The run's; begins the files' names."""


class LayersRead(Frozen):
    """Done; at the end with the largest difference between the outputs with and without asking for values."""

    asked: float | None = None

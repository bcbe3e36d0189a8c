"""A case: one thing to measure, fully explicit."""

import re
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from cnnbench.errors import InputError, ShapeError
from cnnbench.networks import registry
from cnnbench.networks.network import Network
from cnnbench.networks.trainable import ALL, check_part, freeze
from cnnbench.suite.parse import parse_image_size, parse_inputs
from cnnbench.suite.runtimes import PT2E, REFERENCE, check_name, runtime_kind

Workload = Literal["inference", "training", "serving"]
RuntimeName = Annotated[str, AfterValidator(check_name)]
"""A runtime, with its variant if it has one: `ort`, `ort:basic`."""
Device = Literal["cpu", "cuda"]
Precision = Literal["fp32", "amp-fp16", "amp-bf16", "fp16", "bf16", "int8", "int8-7bit", "int8-signed", "int8-pt2e"]
"""IEEE float32; PyTorch's automatic mixed precision in a 16-bit format; or what is executed is made in a 16-bit format,
or quantised to int8: with weights of 7 bits, with signed activations around zero, or by PyTorch (docs/precision.md)."""
Layout = Literal["nchw", "channels_last"]
"""Memory layout of images."""
Allocator = Literal["default", "keep", "tcmalloc", "jemalloc"]
"""What serves malloc: the system's, the system's told to keep what is freed, or a library."""

PUBLISHED = "DEFAULT"
"""In the place of a file of weights: those that torchvision or timm publish."""
DEFAULTS = ("nchw", "default")
"""Layout and allocator that no name shows."""

MAX_THREADS = 1024
MAX_RANKS = 1024
MAX_SESSIONS = 1024

WORKLOADS: tuple[Workload, ...] = get_args(Workload)
DEVICES: tuple[Device, ...] = get_args(Device)

AMP = "amp-"
"""Begins the names of automatic mixed precision."""
QUANTISED: tuple[Precision, ...] = ("int8", "int8-7bit", "int8-signed", "int8-pt2e")
NOISE = "noise"
"""What is quantised where no data set is named: seeded random images."""

PHASES: dict[Workload, tuple[str, ...]] = {
    "inference": ("forward",),
    "training": ("forward", "backward", "optimizer"),
    "serving": (),
}
"""The parts of one call that are timed separately, in order; queries to a service are timed by LoadGen."""
STEP = ("step",)
"""The one part of a training step that runs as a single graph."""

_ID = re.compile(
    r"(?P<model>.+?)(@(?P<image_size>\d+(x\d+){0,2}))?(@(?P<inputs>\w+=[\dx]+(,\w+=[\dx]+)*))?"
    r"(/c(?P<channels>\d+))?(/k(?P<classes>\d+))?(/w:(?P<weights>.+?))?(/l:(?P<loss>[\w.]+:[\w.]+))?"
    r"/(?P<workload>inference|training|serving)/(?P<runtime>[^/]+)/(?P<device>\w+)/(?P<precision>[\w-]+)"
    r"(/cal:(?P<calibration>.+?))?(/draw:(?P<draw>\d+))?(/(?P<layout>channels_last))?"
    r"(/(?P<allocator>keep|tcmalloc|jemalloc))?(/train:(?P<trainable>[\w.:]+(/norm:train)?))?"
    r"(/p99:(?P<p99_ms>[\d.e+-]+)ms)?(/n(?P<sessions>\d+))?(/d(?P<delay_ms>[\d.e+-]+)ms)?"
    r"/b(?P<batch>\d+)(/r(?P<ranks>\d+))?(/t(?P<threads>\d+))?(/s(?P<seed>\d+))?"
)
"""`MODEL[@SIZE][@INPUTS][/cCHANNELS][/kCLASSES][/w:WEIGHTS][/l:LOSS]/WORKLOAD/RUNTIME/DEVICE/PRECISION[/cal:DATA]
[/draw:N][/LAYOUT][/ALLOCATOR][/train:PART[/norm:train]][/p99:BOUNDms][/nSESSIONS][/dDELAYms]/bBATCH[/rRANKS][/tTHREADS]
[/sSEED]`; parts in brackets are left out where they are the default."""

Trainable = Annotated[str, AfterValidator(check_part), Field(max_length=300)]
"""What a step trains: `all`, `head`, `from:layer3`; with `/norm:train` behind it where batch normalisation of what is
frozen runs in training mode."""
LossName = Annotated[str, AfterValidator(registry.check_loss), Field(max_length=300)]
Size = Annotated[int, Field(gt=0, lt=2**31)]
MAX_BATCH = 2**40


class Frozen(BaseModel):
    """An immutable value that rejects unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSpec(Frozen):
    """Network, sizes and seed of the weights: all that an artifact depends on."""

    model: Annotated[str, Field(max_length=300)]
    image_size: tuple[Size, ...] | None = None
    """(height, width), (length,) of signals, or (depth, height, width) of volumes; None is the model's default."""
    classes: Size | None = None
    """None is the model's default. Beside `weights` it allows those of another number, but for the head's."""
    channels: Size | None = None
    """Of images or signals; None where they are read from the model."""
    inputs: tuple[tuple[str, tuple[Size, ...]], ...] | None = None
    """Name and shape of each input, without the batch; None where there is one, of the channels and size above."""
    weights: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    """A file of weights, or DEFAULT for those that torchvision or timm publish; None for random ones."""
    loss: LossName | None = None
    """The user's own, `package.module:callable`, for training; None for cross-entropy."""
    seed: int = 0

    @classmethod
    def checked(
        cls, model: str, image_size: tuple[int, ...] | None, classes: int | None, seed: int = 0, **inputs: Any
    ) -> "ModelSpec":
        """With defaults filled in from the closed form, if it has one; `inputs` are the other fields.

        Raises ShapeError for a size that the model cannot take, and for inputs of a model whose inputs are known.
        """
        size = registry.full_size(model, image_size)
        architecture = registry.find(model)
        given = {name: value for name, value in inputs.items() if value is not None}
        if architecture:
            if known := given.keys() & {"channels", "inputs"}:
                raise ShapeError(f"{model}: its inputs are known; expected no `{min(known)}`")
            architecture.network(size, classes)
            if "weights" not in given:  # beside weights it tells whether the head is another one
                classes = classes or architecture.classes
        if "inputs" in given and (size or "channels" in given):
            raise ShapeError(f"{model}: `inputs` gives whole shapes; expected no `image_size` or `channels` beside it")
        return cls(model=model, image_size=size, classes=classes, seed=seed, **given)

    @property
    def closed_form(self) -> Network | None:
        """The network at these sizes; None for a model outside the registry."""
        architecture = registry.find(self.model)
        return architecture.network(self.image_size, self.classes) if architecture else None

    @property
    def is_users_own(self) -> bool:
        """Whether it is `package.module:callable`, whose code may change between runs."""
        return ":" in self.model and not self.is_onnx_file and not self.is_program_file

    @property
    def depends_on_code(self) -> bool:
        """Whether it is made of code that a user has named, and that may change."""
        return self.is_users_own or self.loss is not None

    @property
    def is_onnx_file(self) -> bool:
        """Whether it is a graph in a file, which runs where exported graphs do."""
        return registry.is_onnx_file(self.model)

    @property
    def is_program_file(self) -> bool:
        """Whether it is a program that torch.export has saved, a module with weights of its own."""
        return registry.is_program_file(self.model)

    @property
    def label(self) -> str:
        """The model's name, with image size and classes that are not its defaults: `resnet18@96x96/k10`."""
        architecture = registry.find(self.model)
        own_size, own_classes = (architecture.image_size, architecture.classes) if architecture else (None, None)
        size = f"@{'x'.join(map(str, self.image_size))}" if self.image_size and self.image_size != own_size else ""
        inputs = ",".join(f"{name}={'x'.join(map(str, shape))}" for name, shape in self.inputs or ())
        channels = f"/c{self.channels}" if self.channels else ""
        classes = f"/k{self.classes}" if self.classes and (self.classes != own_classes or self.weights) else ""
        weights = f"/w:{self.weights}" if self.weights else ""
        loss = f"/l:{self.loss}" if self.loss else ""
        return self.model + size + (f"@{inputs}" if inputs else "") + channels + classes + weights + loss


class Case(Frozen):
    """Model x workload x runtime x device x precision x layout x allocator x trained part x batch x ranks x threads."""

    spec: ModelSpec
    workload: Workload
    runtime: RuntimeName
    device: Device = "cpu"
    precision: Precision = "fp32"
    calibration: Annotated[str, Field(min_length=1, max_length=1000)] = NOISE
    """The data set, as `--data` takes it, whose images decide the ranges of what is quantised."""
    draw: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Which seeded choice of its training images."""
    layout: Layout = "nchw"
    allocator: Allocator = "default"
    trainable: Trainable = ALL
    batch: Annotated[int, Field(ge=1, le=MAX_BATCH)]
    """Of each rank."""
    ranks: Annotated[int, Field(ge=1, le=MAX_RANKS)] = 1
    """Processes that train one model together, each on a batch of its own."""
    threads: Annotated[int, Field(ge=1, le=MAX_THREADS)] | None = None
    """CPU threads, of each rank, or each session of a service; None is every physical core that this process may use,
    divided among the sessions."""
    p99_ms: Annotated[float, Field(gt=0, le=1e9)] | None = None
    """The bound within which a service's 99th percentile of latency must stay; None is one from its own single stream
    (docs/serving.md). `batch` is the largest that its queue forms."""
    sessions: Annotated[int, Field(ge=1, le=MAX_SESSIONS)] = 1
    """Copies of the model that serve queries at once."""
    delay_ms: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    """The longest that a query waits for others to form a batch with."""

    @model_validator(mode="after")
    def _check_calibration(self) -> Self:
        if self.draw and self.calibration == NOISE:
            raise ValueError(f"nothing is drawn of noise; got draw {self.draw}")
        if self.calibration != NOISE and not self.is_quantised:
            raise ValueError(f"nothing is quantised in {self.precision}; got calibration {self.calibration!r}")
        return self

    @model_validator(mode="after")
    def _check_axes(self) -> Self:
        if self.workload != "training" and self.trainable != ALL:
            raise ValueError(f"{self.workload} trains nothing; got trainable {self.trainable!r}")
        if self.workload != "serving" and (self.p99_ms, self.sessions, self.delay_ms) != (None, 1, 0.0):
            raise ValueError(f"{self.workload} serves nothing; expected no p99, sessions or delay")
        if self.ranks > 1 and self.workload != "training":
            raise ValueError(f"{self.workload} has one rank; got {self.ranks}")
        if self.ranks > 1 and self.device == "cpu" and self.threads is None:
            raise ValueError(f"{self.ranks} ranks on the CPU: expected `threads`, those of each rank; got none")
        return self

    def check_part(self) -> None:
        """Raises InputError for a part to train that a registered model has not."""
        if self.trainable != ALL and (network := self.spec.closed_form) is not None:
            freeze(network, self.trainable)

    @classmethod
    def from_id(cls, id_: str) -> "Case":
        """The case that an id names. Raises InputError."""
        match = _ID.fullmatch(id_)
        if match is None:
            raise InputError(f"{id_}: expected a case's id such as resnet18/inference/ort/cpu/fp32/b8; got {id_!r}")
        given = {name: part for name, part in match.groupdict().items() if part is not None}
        try:
            size, inputs = given.pop("image_size", None), given.pop("inputs", None)
            classes, channels = (int(given.pop(name, 0)) or None for name in ("classes", "channels"))
            spec = ModelSpec.checked(
                registry.check_name(given.pop("model")),
                parse_image_size(size) if size else None,
                classes,
                int(given.pop("seed", 0)),
                channels=channels,
                inputs=parse_inputs(inputs.split(",")) if inputs else None,
                weights=given.pop("weights", None),
                loss=given.pop("loss", None),
            )
            case = cls.model_validate({"spec": spec, **given})
            case.check_part()
            return case
        except ValidationError as error:
            first = error.errors()[0]
            where = f"{first['loc'][-1]}: " if first["loc"] else ""
            raise InputError(f"{id_}: {where}{first['msg']}" + (f"; got {first['input']!r}" if where else "")) from None
        except ValueError as error:
            raise InputError(f"{id_}: {error}") from None

    @property
    def id(self) -> str:
        """The name used everywhere: `resnet18/inference/ort/cpu/fp32/b8`."""
        data = [] if self.calibration == NOISE else [f"cal:{self.calibration}"]
        data += [f"draw:{self.draw}"] if self.draw else []
        backend = (self.runtime, self.device, self.precision, *data, self.layout, self.allocator)
        parts = (self.spec.label, self.workload, *(part for part in backend if part not in DEFAULTS))
        return "/".join(parts) + self.part + self.service + f"/b{self.batch}" + self._threads_and_seed

    @property
    def label(self) -> str:
        """The model's label, with what is trained, how it is served, ranks, threads and seed where not the defaults."""
        return self.spec.label + self.part + self.service + self._threads_and_seed

    @property
    def network(self) -> Network | None:
        """In closed form, frozen as the case trains it; None for a model outside the registry."""
        network = self.spec.closed_form
        return network and freeze(network, self.trainable)

    @property
    def part(self) -> str:
        """What is trained as a part of names: `/train:head`; empty where it is all."""
        return "" if self.trainable == ALL else f"/train:{self.trainable}"

    @property
    def service(self) -> str:
        """How it is served as a part of names: `/p99:20ms/n2/d1ms`; empty where that is the default."""
        bound = f"/p99:{self.p99_ms:g}ms" if self.p99_ms else ""
        sessions, delay = f"/n{self.sessions}" * (self.sessions > 1), f"/d{self.delay_ms:g}ms" * (self.delay_ms > 0)
        return bound + sessions + delay

    @property
    def _threads_and_seed(self) -> str:
        ranks = f"/r{self.ranks}" if self.ranks > 1 else ""
        threads = f"/t{self.threads}" if self.threads else ""
        return ranks + threads + (f"/s{self.spec.seed}" if self.spec.seed else "")

    @property
    def images(self) -> int:
        """Of one call, over all ranks."""
        return self.batch * self.ranks

    @property
    def backend(self) -> str:
        """What executes it: `ort/cpu`, `eager/cpu/amp-bf16/channels_last`."""
        parts = (self.runtime, self.device, self.precision, self.layout, self.allocator)
        return "/".join(part for part in parts if part not in ("fp32", *DEFAULTS))

    @property
    def is_exported(self) -> bool:
        """Whether what runs is the exported graph."""
        return runtime_kind(self.runtime).runs_exported_graph

    @property
    def is_quantised(self) -> bool:
        """Whether what runs was quantised to int8."""
        return self.precision in QUANTISED

    @property
    def format(self) -> str:
        """The number format that its arithmetic is asked to be in: fp32, fp16, bf16 or int8."""
        return "int8" if self.is_quantised else self.precision.removeprefix(AMP)

    @property
    def has_own_graph(self) -> bool:
        """Whether what runs is made for its precision: of the exported graph, or in PyTorch of the module."""
        return self.precision == PT2E or (self.is_exported and self.precision != "fp32")

    @property
    def is_exported_step(self) -> bool:
        """Whether what runs is the exported training step."""
        return self.is_exported and self.workload == "training"

    @property
    def is_compiled_ahead(self) -> bool:
        """Whether what runs is a package that was compiled for it before."""
        return runtime_kind(self.runtime).compiled_ahead

    @property
    def phases(self) -> tuple[str, ...]:
        """The parts of one call that are timed separately."""
        return STEP if self.is_exported_step else PHASES[self.workload]

    @property
    def is_reference(self) -> bool:
        """Whether it is the one of its comparison group that ratios are taken to."""
        return (self.runtime, self.layout, self.allocator, self.ranks) == (REFERENCE, "nchw", "default", 1)

    @property
    def group_key(self) -> tuple[object, ...]:
        """All but runtime, precision, layout, allocator, part trained and ranks: equal where measured interleaved."""
        return (self.spec, self.workload, self.device, self.batch, self.threads)

    @property
    def work_key(self) -> tuple[object, ...]:
        """The same with precision, what is trained and ranks: equal for cases that do the same work, so that they are
        ranked together."""
        return (*self.group_key, self.precision, self.trainable, self.ranks)

    def matches(self, pattern: str) -> bool:
        """Whether the id matches a shell pattern such as `resnet*/inference/*`."""
        return fnmatchcase(self.id, pattern)

"""A case: one thing to measure, fully explicit."""

from fnmatch import fnmatchcase
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt

from cnnbench.networks import registry
from cnnbench.suite.runtimes import REFERENCE, check_name, runtime_kind

Workload = Literal["inference", "training"]
RuntimeName = Annotated[str, AfterValidator(check_name)]
"""A runtime, with its variant if it has one: `ort`, `ort:basic`."""
Device = Literal["cpu", "cuda"]
Precision = Literal["fp32", "bf16", "fp16"]
"""IEEE float32, or automatic mixed precision in one of the 16-bit formats."""
Layout = Literal["nchw", "channels_last"]
"""How images lie in memory."""

MAX_THREADS = 1024

WORKLOADS: tuple[Workload, ...] = get_args(Workload)
DEVICES: tuple[Device, ...] = get_args(Device)

PHASES: dict[Workload, tuple[str, ...]] = {
    "inference": ("forward",),
    "training": ("forward", "backward", "optimizer"),
}
"""The parts of one step that are timed apart, in order, where the runtime can tell them apart."""
STEP = ("step",)
"""The one part of a training step that is a single graph."""


class Frozen(BaseModel):
    """A value that never changes and knows no key but its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSpec(Frozen):
    """Which network, at which size, with which weights: all that its artifact depends on."""

    model: str
    image_size: tuple[int, ...] | None = None
    """(height, width), or (length,) of signals; None is the model's own."""
    classes: int | None = None
    """None is the model's own."""
    seed: int = 0

    @property
    def is_users_own(self) -> bool:
        """Whether it is `package.module:callable`, whose code may change between two runs."""
        return ":" in self.model

    @property
    def label(self) -> str:
        """The model's name, and its image size and classes where they are not its own: `resnet18@96x96/k10`."""
        architecture = registry.find(self.model)
        size = f"@{'x'.join(map(str, self.image_size))}" if self.image_size else ""
        classes = f"/k{self.classes}" if self.classes else ""
        if architecture and self.image_size == architecture.image_size:
            size = ""
        if architecture and self.classes == architecture.classes:
            classes = ""
        return f"{self.model}{size}{classes}"


class Case(Frozen):
    """Model x workload x runtime x device x precision x layout x batch x threads: one row of a table."""

    spec: ModelSpec
    workload: Workload
    runtime: RuntimeName
    device: Device = "cpu"
    precision: Precision = "fp32"
    layout: Layout = "nchw"
    batch: PositiveInt
    threads: Annotated[int, Field(ge=1, le=MAX_THREADS)] | None = None
    """CPU threads; None is every physical core that this process may use."""

    @property
    def id(self) -> str:
        """The one name used everywhere: `resnet18/inference/ort/cpu/fp32/b8`."""
        path = (self.spec.label, self.workload, self.runtime, self.device, self.precision, *self._unusual_layout)
        return "/".join(path) + f"/b{self.batch}{self._unusual}"

    @property
    def backend(self) -> str:
        """What executes it, as a table says: `ort/cpu`, `eager/cpu/bf16/channels_last`."""
        unusual = () if self.precision == "fp32" else (self.precision,)
        return "/".join((self.runtime, self.device, *unusual, *self._unusual_layout))

    @property
    def is_exported(self) -> bool:
        """Whether what runs is the exported graph."""
        return runtime_kind(self.runtime).runs_exported_graph

    @property
    def is_exported_step(self) -> bool:
        """Whether what runs is the exported training step."""
        return self.is_exported and self.workload == "training"

    @property
    def phases(self) -> tuple[str, ...]:
        """The parts of one call that are timed apart."""
        return STEP if self.is_exported_step else PHASES[self.workload]

    @property
    def is_reference(self) -> bool:
        """Whether it is the one in its comparison group that ratios are taken to."""
        return self.runtime == REFERENCE and self.layout == "nchw"

    @property
    def _unusual_layout(self) -> tuple[str, ...]:
        return () if self.layout == "nchw" else (self.layout,)

    @property
    def label(self) -> str:
        """The model's label, with threads and seed where they were asked for: what a table calls the row."""
        return self.spec.label + self._unusual

    @property
    def _unusual(self) -> str:
        threads = f"/t{self.threads}" if self.threads else ""
        return threads + (f"/s{self.spec.seed}" if self.spec.seed else "")

    @property
    def group_key(self) -> tuple[object, ...]:
        """What cases share that a table sets side by side: all but the runtime and the layout."""
        return (self.spec, self.workload, self.device, self.precision, self.batch, self.threads)

    def matches(self, pattern: str) -> bool:
        """Whether the id fits a shell pattern such as `resnet*/inference/*`."""
        return fnmatchcase(self.id, pattern)

"""The schema of a suite file, and the error messages for mistakes in one."""

import re
from collections import Counter
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import ErrorDetails

from cnnbench.errors import SuiteError, unknown
from cnnbench.networks import registry
from cnnbench.networks.trainable import ALL
from cnnbench.suite.case import (
    MAX_BATCH,
    MAX_RANKS,
    MAX_SESSIONS,
    MAX_THREADS,
    WORKLOADS,
    Allocator,
    Device,
    Layout,
    LossName,
    Precision,
    RuntimeName,
    Trainable,
    Workload,
)
from cnnbench.suite.input_plan import InputPlan
from cnnbench.suite.parse import parse_duration, parse_image_size, parse_inputs, shown
from cnnbench.suite.recipe import Recipe
from cnnbench.suite.yaml_lines import KeyPath, YamlSource

T = TypeVar("T")

_LIST_TAG, _MAPPING_TAG = "one-list", "per-workload"


def _each_once(values: list[T]) -> list[T]:
    twice = next((value for value, count in Counter(values).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"{shown(twice)} stands twice; keep one")
    return values


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


MAX_CASES = 10_000
ListOf = Annotated[list[T], Field(min_length=1)]
Axis = Annotated[ListOf[T], AfterValidator(_each_once)]
PerWorkload = Annotated[
    Annotated[Axis[T], Tag(_LIST_TAG)] | Annotated[dict[Workload, Axis[T]], Tag(_MAPPING_TAG)],
    Discriminator(lambda value: _MAPPING_TAG if isinstance(value, dict) else _LIST_TAG),
]
"""One list for all workloads, or a list for each: `[1, 8]` or `{inference: [1, 8], training: [8]}`."""

FrozenNorm = Literal["eval", "train"]

Ranks = Annotated[int, Field(strict=True, ge=1, le=MAX_RANKS)]
Batch = Annotated[int, Field(strict=True, ge=1, le=MAX_BATCH)]
Sessions = Annotated[int, Field(strict=True, ge=1, le=MAX_SESSIONS)]
ModelName = Annotated[str, BeforeValidator(lambda value: registry.check_name(str(value)))]
Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    WithJsonSchema({"type": ["string", "number"], "examples": ["10m", "3s"]}),
]
Delay = Annotated[
    float,
    BeforeValidator(lambda value: 0.0 if value in (0, "0", "0s", "0ms") else parse_duration(value)),
    WithJsonSchema({"type": ["string", "number"], "examples": [0, "2ms"]}),
]
ImageSize = Annotated[
    tuple[int, ...],
    BeforeValidator(parse_image_size),
    WithJsonSchema({"type": ["integer", "string"], "examples": [224, "480x640"]}),
]

Inputs = Annotated[
    tuple[tuple[str, tuple[int, ...]], ...],
    BeforeValidator(parse_inputs),
    WithJsonSchema(
        {
            "type": "object",
            "additionalProperties": {"type": ["array", "string"], "examples": [[3, 224, 224], "3x224x224"]},
        }
    ),
]


class Settings(BaseModel):
    """Keys of `defaults` and of a model's entry, which overrides them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    workloads: Axis[Workload] | None = Field(None, description="inference, training, serving, or several of them")
    runtimes: PerWorkload[RuntimeName] | None = Field(
        None, description="what executes the model, such as eager, compile, ort, ort:basic"
    )
    devices: PerWorkload[Device] | None = Field(
        None, description="where it runs; a case on an absent device is recorded as unavailable"
    )
    precisions: PerWorkload[Precision] | None = Field(
        None, description="number format; amp-bf16 and amp-fp16 are PyTorch's automatic mixed precision"
    )
    calibration: Annotated[str, Field(min_length=1, max_length=1000)] | None = Field(
        None, description="data set whose training images int8 is calibrated with, as --data takes it; noise if absent"
    )
    data: Annotated[str, Field(min_length=1, max_length=1000)] | None = Field(
        None,
        description="data set on whose test images what was timed is evaluated; int8 is calibrated with its others",
    )
    test_images: Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)] | None = Field(
        None, description="at most so many of them, balanced by class; 2,000 if absent"
    )
    layouts: PerWorkload[Layout] | None = Field(None, description="memory layout of images")
    allocators: PerWorkload[Allocator] | None = Field(
        None, description="what serves malloc; keep is the system's, told to keep memory that is freed"
    )
    trainable: Annotated[Axis[Trainable], BeforeValidator(_listed)] | None = Field(
        None, description="what a training step trains: all, head, or from:NAME, all from a module on; one or a list"
    )
    frozen_norm: Annotated[Axis[FrozenNorm], BeforeValidator(_listed)] | None = Field(
        None, description="the mode of batch normalisation in what is not trained: eval or train; one or a list"
    )
    batches: PerWorkload[Batch] | None = Field(None, description="images per call, and of each rank")
    ranks: Axis[Ranks] | None = Field(
        None, description="processes that train one model together, for training in eager; needs threads on the CPU"
    )
    image_size: ImageSize | None = Field(
        None, description="224, 480x640 (height x width) or 16x112x112; the model's default if absent"
    )
    classes: Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)] | None = Field(
        None, description="classes of the last layer; the model's default if absent"
    )
    channels: Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)] | None = Field(
        None, description="channels of images or signals, where they cannot be read from the model"
    )
    inputs: Inputs | None = Field(
        None, description="shape of each input by its name, without the batch, such as {left: [3, 224, 224]}"
    )
    weights: Annotated[str, Field(min_length=1, max_length=1000)] | None = Field(
        None,
        description="a file of weights, DEFAULT for those that torchvision or timm publish, or trained for those that "
        "`train` describes; random if absent",
    )
    train: Recipe | None = Field(None, description="how `weights: trained` are made, by `cnnbench train-suite`")
    loss: LossName | None = Field(
        None, description="package.module:callable of a training step's loss(outputs, labels); cross-entropy if absent"
    )
    seed: Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)] | None = Field(
        None, description="of weights and images"
    )
    threads: Annotated[int, Field(strict=True, ge=1, le=MAX_THREADS)] | None = Field(
        None, description="CPU threads; every usable physical core if absent"
    )
    case_budget: Duration | None = Field(
        None, description="time to measure one case, such as 3s; if absent 3s, and 60s of serving"
    )
    p99: Duration | None = Field(
        None, description="serving: bound of the 99th percentile, such as 20ms; five single-stream medians if absent"
    )
    sessions: Axis[Sessions] | None = Field(None, description="serving: copies of the model that serve at once")
    queue_delays: Axis[Delay] | None = Field(
        None, description="serving: longest wait of a query for others of its batch, such as [0, 2ms]"
    )


class ModelEntry(Settings):
    """A model, with settings that differ from the defaults."""

    model: ModelName = Field(description=registry.FORMS)


BUILT_IN = Settings(
    workloads=["inference", "training"],
    runtimes={"inference": ["eager", "ort"], "training": ["eager"], "serving": ["eager", "ort"]},
    devices=["cpu"],
    precisions=["fp32"],
    test_images=2000,
    layouts=["nchw"],
    allocators=["default"],
    trainable=[ALL],
    frozen_norm=["eval"],
    batches={"inference": [1, 8], "training": [8], "serving": [1]},
    ranks=[1],
    seed=0,
    sessions=[1],
    queue_delays=[0.0],
)
"""Defaults of the defaults."""
CASE_BUDGETS_S: dict[Workload, float] = {"inference": 3.0, "training": 3.0, "serving": 60.0}
"""Where a suite sets none."""


class SuiteFile(BaseModel):
    """The content of a suite file."""

    model_config = ConfigDict(extra="forbid", frozen=True, title="cnnbench suite")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$", max_length=100)] | None = Field(
        None, description="names the run's folder; the file's name if absent"
    )
    description: str = Field("", description="purpose of the suite, in one sentence")
    budget: Duration = Field(600.0, description="time for the whole run, such as 10m")
    launches: Annotated[int, Field(strict=True, ge=1, le=1000)] = Field(
        3, description="maximum number of processes per case, as the budget allows"
    )
    limit: Duration = Field(300.0, description="timeout for a worker's answer, such as 5m")
    input: InputPlan | None = Field(
        None, description="images, their transforms and worker processes, whose speed is set beside training steps"
    )
    defaults: Settings = Settings()
    models: ListOf[
        Annotated[ModelEntry, BeforeValidator(lambda value: {"model": value} if isinstance(value, str) else value)]
    ] = Field(description="names, or mappings with a `model` and settings that differ from the defaults")


def parse(source: YamlSource) -> SuiteFile:
    """The file's content. Raises SuiteError with one line per mistake."""
    if not isinstance(source.data, dict):
        raise SuiteError(f"{source.path}: expected a mapping with `models`; got {shown(source.data)}")
    try:
        return SuiteFile.model_validate(source.data)
    except ValidationError as error:
        raise SuiteError("\n".join(_explain(source, detail) for detail in error.errors())) from None


def json_schema() -> dict[str, Any]:
    """The JSON Schema of suite files, for editors. A model may also be given as its bare name."""
    schema = SuiteFile.model_json_schema()
    items = schema["properties"]["models"]["items"]
    schema["properties"]["models"]["items"] = {"anyOf": [{"type": "string"}, items]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


MESSAGES = {
    "missing": "expected a key {name!r}; got none",
    "value_error": "{error}",
    "greater_than_equal": "expected a whole number of at least {ge}; got {got}",
    "less_than_equal": "expected a whole number of at most {le}; got {got}",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "expected a whole number; got {got}"),
    "list_type": "expected a list; got {got}",
    "too_short": "expected at least one item; got none",
    **dict.fromkeys(
        ("string_type", "string_pattern_mismatch"), "expected a word of letters, digits, '-', '_' and '.'; got {got}"
    ),
    **dict.fromkeys(("model_type", "dict_type"), "expected a mapping of keys to values; got {got}"),
}
"""By pydantic's type of error."""


def _explain(source: YamlSource, detail: ErrorDetails) -> str:
    """One line for one mistake: where, expected, got, what to do."""
    where: KeyPath = tuple(part for part in detail["loc"] if part not in (_LIST_TAG, _MAPPING_TAG, "[key]"))
    kind, got = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        levels: dict[object, type[BaseModel]] = {"defaults": Settings, "models": ModelEntry, "input": InputPlan}
        level = Recipe if "train" in where[:-1] else levels.get(where[0], SuiteFile)
        message = unknown("key", str(where[-1]), level.model_fields)
    elif kind == "literal_error":
        axes = [part for part in where if isinstance(part, str) and part not in WORKLOADS]
        noun = "workload" if "[key]" in detail["loc"] else axes[-1].removesuffix("s")
        message = unknown(noun, str(got), re.findall(r"'([^']+)'", str(detail["ctx"]["expected"])))
    else:
        template = MESSAGES.get(kind, "{msg}; got {got}")
        message = template.format(name=where[-1], msg=detail["msg"], got=shown(got), **detail.get("ctx", {}))
        if kind == "list_type" and isinstance(got, str | int):
            message += f"; write [{got}]"
    return f"{source.place(where)}: {message}"

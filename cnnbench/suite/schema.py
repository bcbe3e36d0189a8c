"""A suite file as people write it: its keys, their types, and what is said of a mistake."""

import re
from typing import Annotated, Any, TypeVar

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
from cnnbench.suite.case import MAX_THREADS, Device, Layout, Precision, RuntimeName, Workload
from cnnbench.suite.parse import parse_duration, parse_image_size
from cnnbench.suite.yaml_lines import KeyPath, YamlSource

T = TypeVar("T")

_LIST_TAG, _MAPPING_TAG = "one-list", "per-workload"


def _list_or_mapping(value: object) -> str:
    return _MAPPING_TAG if isinstance(value, dict) else _LIST_TAG


def _each_once(values: list[T]) -> list[T]:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ValueError(f"{_shown(value)} stands twice; keep one")
    return values


MAX_CASES = 10_000
ListOf = Annotated[list[T], Field(min_length=1)]
Axis = Annotated[ListOf[T], AfterValidator(_each_once)]
PerWorkload = Annotated[
    Annotated[Axis[T], Tag(_LIST_TAG)] | Annotated[dict[Workload, Axis[T]], Tag(_MAPPING_TAG)],
    Discriminator(_list_or_mapping),
]
"""One list for both workloads, or a list for each: `[1, 8]` or `{inference: [1, 8], training: [8]}`."""

Batch = Annotated[int, Field(strict=True, ge=1, le=2**40)]
ModelName = Annotated[str, BeforeValidator(lambda value: registry.check_name(str(value)))]
Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    WithJsonSchema({"type": ["string", "number"], "examples": ["10m", "3s"]}),
]
ImageSize = Annotated[
    tuple[int, ...],
    BeforeValidator(parse_image_size),
    WithJsonSchema({"type": ["integer", "string"], "examples": [224, "480x640"]}),
]


class Settings(BaseModel):
    """What may stand under `defaults` and in a model's own entry; the entry's word counts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    workloads: Axis[Workload] | None = Field(None, description="inference, training, or both")
    runtimes: PerWorkload[RuntimeName] | None = Field(
        None, description="what executes the model, such as eager, compile, ort, ort:basic"
    )
    devices: PerWorkload[Device] | None = Field(None, description="where; one that is absent gives rows that say so")
    precisions: PerWorkload[Precision] | None = Field(None, description="the numbers' format")
    layouts: PerWorkload[Layout] | None = Field(None, description="how images lie in memory")
    batches: PerWorkload[Batch] | None = Field(None, description="images per call")
    image_size: ImageSize | None = Field(None, description="224 or 480x640 (height x width); the model's own if absent")
    classes: Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)] | None = Field(
        None, description="classes of the last layer; the model's own if absent"
    )
    seed: Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)] | None = Field(
        None, description="of weights and images"
    )
    threads: Annotated[int, Field(strict=True, ge=1, le=MAX_THREADS)] | None = Field(
        None, description="CPU threads; every physical core that may be used if absent"
    )
    case_budget: Duration | None = Field(None, description="time spent measuring one case, such as 3s")


class ModelEntry(Settings):
    """One model, with what differs from the defaults."""

    model: ModelName = Field(description=registry.FORMS)


BUILT_IN = Settings(
    workloads=["inference", "training"],
    runtimes={"inference": ["eager", "ort"], "training": ["eager"]},
    devices=["cpu"],
    precisions=["fp32"],
    layouts=["nchw"],
    batches={"inference": [1, 8], "training": [8]},
    seed=0,
    case_budget=3.0,
)
"""What holds where a suite says nothing."""


class SuiteFile(BaseModel):
    """A suite as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True, title="cnnbench suite")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$", max_length=100)] | None = Field(
        None, description="used in folder names; the file's name if absent"
    )
    description: str = Field("", description="what the suite is for, in one sentence")
    budget: Duration = Field(600.0, description="time for the whole run, such as 10m")
    launches: Annotated[int, Field(strict=True, ge=1, le=1000)] = Field(
        3, description="processes that a case is measured in at most, while the budget lasts"
    )
    limit: Duration = Field(300.0, description="the longest that a worker may go without an answer, such as 5m")
    defaults: Settings = Settings()
    models: ListOf[
        Annotated[ModelEntry, BeforeValidator(lambda value: {"model": value} if isinstance(value, str) else value)]
    ] = Field(description="names, or mappings with a `model` and what differs from the defaults")


def parse(source: YamlSource) -> SuiteFile:
    """The file's content, checked. Raises SuiteError with one line for each mistake."""
    if not isinstance(source.data, dict):
        raise SuiteError(f"{source.path}: expected a mapping with `models`; got {_shown(source.data)}")
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


def _explain(source: YamlSource, detail: ErrorDetails) -> str:
    """One line for one thing wrong: where, expected, got, what to do."""
    where: KeyPath = tuple(part for part in detail["loc"] if part not in (_LIST_TAG, _MAPPING_TAG, "[key]"))
    got = detail["input"]
    match detail["type"]:
        case "extra_forbidden":
            message = unknown("key", str(where[-1]), _keys_at(where))
        case "missing":
            message = f"expected a key {str(where[-1])!r}; got none"
        case "literal_error":
            known = re.findall(r"'([^']+)'", str(detail["ctx"]["expected"]))
            message = unknown(_singular(where), str(got), known)
        case "value_error":
            message = str(detail["ctx"]["error"])
        case "greater_than_equal":
            message = f"expected a whole number of at least {detail['ctx']['ge']}; got {_shown(got)}"
        case "less_than_equal":
            message = f"expected a whole number of at most {detail['ctx']['le']}; got {_shown(got)}"
        case "int_type" | "int_parsing" | "int_from_float":
            message = f"expected a whole number; got {_shown(got)}"
        case "list_type":
            hint = f"; write [{got}]" if isinstance(got, str | int) else ""
            message = f"expected a list; got {_shown(got)}{hint}"
        case "too_short":
            message = "expected at least one item; got none"
        case "string_type" | "string_pattern_mismatch":
            message = f"expected a word of letters, digits, '-', '_' and '.'; got {_shown(got)}"
        case "model_type" | "dict_type":
            message = f"expected a mapping of keys to values; got {_shown(got)}"
        case _:
            message = f"{detail['msg']}; got {_shown(got)}"
    return f"{source.place(where)}: {message}"


def _keys_at(where: KeyPath) -> list[str]:
    """The keys that may stand where an unknown one was found."""
    if where[0] == "defaults":
        return list(Settings.model_fields)
    return list(ModelEntry.model_fields if where[0] == "models" else SuiteFile.model_fields)


def _singular(where: KeyPath) -> str:
    """`runtime` for something under `runtimes`, `workload` for a key of a mapping per workload."""
    plurals = {
        "workloads": "workload",
        "runtimes": "runtime",
        "devices": "device",
        "precisions": "precision",
        "layouts": "layout",
    }
    for depth, part in enumerate(reversed(where)):
        if part in plurals:
            return "workload" if depth == 1 and isinstance(where[-1], str) else plurals[str(part)]
    return "workload"


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

"""A suite: a YAML file that expands to cases."""

import json
import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from cnnbench.errors import InputError, ShapeError, SuiteError, unknown
from cnnbench.networks import registry
from cnnbench.suite.case import Case, Frozen, ModelSpec, Workload
from cnnbench.suite.parse import parse_image_size
from cnnbench.suite.schema import BUILT_IN, Settings, SuiteFile, parse
from cnnbench.suite.yaml_lines import YamlSource, read_yaml

T = TypeVar("T")

EXPECTATION = ".expect.yaml"
"""Ends the name of the file beside a suite that holds its exact figures."""
ROOM_S = 60.0
"""For building a model's artifact and starting its workers, where a suite is made of single cases."""

_ID = re.compile(
    r"(?P<model>.+?)(@(?P<size>\d+(x\d+)?))?(/k(?P<classes>\d+))?/(?P<workload>inference|training)"
    r"/(?P<runtime>[^/]+)/(?P<device>\w+)/(?P<precision>\w+)(/(?P<layout>channels_last))?"
    r"/b(?P<batch>\d+)(/t(?P<threads>\d+))?(/s(?P<seed>\d+))?"
)
"""A case's id, as `Case.id` writes it."""


class Suite(Frozen):
    """A suite ready to run: its cases, in order."""

    name: str
    description: str
    path: Path
    text: str
    """The file as it was read."""
    budget_s: float
    limit_s: float
    cases: tuple[Case, ...]
    case_budgets_s: dict[str, float]
    """Seconds of measuring for each case id, in each launch."""
    launches: int = 1
    """How often each case is launched at most."""

    @property
    def digest(self) -> str:
        """The same for two suites that ask for the same measurements, whatever their comments."""
        asked = [self.name, [case.model_dump() for case in self.cases]]
        return sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def load_suite(name_or_path: str) -> Suite:
    """Read a suite from a file, or one that comes with cnnbench by its name. Raises SuiteError."""
    source = read_yaml(_find(name_or_path))
    return _expand(source, parse(source))


def suite_of(cases: Sequence[Case], case_budget_s: float, launches: int = 1) -> Suite:
    """A suite of given cases, each measured for so long in each launch; its own budget is as large as they need."""
    spans = {case.id: case_budget_s for case in cases}
    return Suite(
        name="cases",
        description="Cases given one by one.",
        path=Path("cases.yaml"),
        text="".join(f"# {id_}\n" for id_ in spans),
        budget_s=len(spans) * launches * (case_budget_s + ROOM_S),
        limit_s=SuiteFile.model_fields["limit"].default,
        cases=tuple({case.id: case for case in cases}.values()),
        case_budgets_s=spans,
        launches=launches,
    )


def select(cases: Sequence[Case], patterns: Sequence[str]) -> list[Case]:
    """The cases whose ids fit one of the shell patterns; all if there are none. Raises ValueError if none fits."""
    chosen = [case for case in cases if not patterns or any(case.matches(pattern) for pattern in patterns)]
    if not chosen:
        raise ValueError(
            f"expected a pattern that fits a case such as {cases[0].id!r}; {list(patterns)} fits none of {len(cases)}"
        )
    return chosen


def case_of(id_: str) -> Case:
    """The case that an id such as `resnet18/inference/ort/cpu/fp32/b8` names. Raises InputError."""
    match = _ID.fullmatch(id_)
    if match is None:
        raise InputError(f"expected a case's id such as resnet18/inference/ort/cpu/fp32/b8; got {id_!r}")
    said = match.groupdict()
    size = parse_image_size(said["size"]) if said["size"] else None
    architecture = registry.find(said["model"])
    classes = int(said["classes"]) if said["classes"] else (architecture.classes if architecture else None)
    try:
        registry.check_name(said["model"])
        spec = ModelSpec(
            model=said["model"],
            image_size=registry.full_size(said["model"], size),
            classes=classes,
            seed=int(said["seed"] or 0),
        )
        if architecture:
            architecture.network(spec.image_size, spec.classes)
        axes = {key: said[key] for key in ("workload", "runtime", "device", "precision", "batch", "threads")}
        return Case.model_validate({"spec": spec, **axes, "layout": said["layout"] or "nchw"})
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{id_}: {first['loc'][-1]}: {first['msg']}; got {first['input']!r}") from None
    except ValueError as error:
        raise InputError(f"{id_}: {error}") from None


def bundled_suites() -> dict[str, Path]:
    """The suites that come with cnnbench: in the package where it is installed, beside it in a checkout."""
    package = Path(__file__).parent.parent
    for folder in (package / "suites", package.parent / "suites"):
        if folder.is_dir():
            files = sorted(path for path in folder.glob("*.yaml") if not path.name.endswith(EXPECTATION))
            return {path.stem: path for path in files}
    return {}


def _find(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if path.is_dir():
        raise SuiteError(f"{path}: expected a suite file; got a folder")
    if path.exists():
        return path
    bundled = bundled_suites()
    if name_or_path in bundled:
        return bundled[name_or_path]
    hint = unknown("suite", path.stem, bundled) if bundled else "give the path of a YAML file"
    raise SuiteError(f"{path}: no such suite file; {hint}")


def _expand(source: YamlSource, file: SuiteFile) -> Suite:
    cases: dict[str, Case] = {}
    budgets: dict[str, float] = {}
    defaults = _merge(BUILT_IN, file.defaults)
    for index, entry in enumerate(file.models):
        settings = _merge(defaults, entry)
        assert settings.workloads is not None
        assert settings.case_budget is not None
        spec = _spec(source, index, entry.model, settings)
        for workload in settings.workloads:
            for case in _cases(spec, workload, settings):
                if case.id in cases:
                    raise SuiteError(f"{source.place(('models', index))}: case {case.id} stands twice; keep one")
                cases[case.id] = case
                budgets[case.id] = settings.case_budget
    return Suite(
        name=file.name or source.path.stem,
        description=file.description,
        path=source.path,
        text=source.text,
        budget_s=file.budget,
        limit_s=file.limit,
        cases=tuple(cases.values()),
        case_budgets_s=budgets,
        launches=file.launches,
    )


def _spec(source: YamlSource, index: int, model: str, settings: Settings) -> ModelSpec:
    architecture = registry.find(model)
    classes = settings.classes or (architecture.classes if architecture else None)
    try:
        image_size = registry.full_size(model, settings.image_size)
        if architecture:
            architecture.network(image_size, classes)
    except ShapeError as error:
        key = "image_size" if ("models", index, "image_size") in source.lines else "model"
        raise SuiteError(f"{source.place(('models', index, key))}: {error}") from None
    return ModelSpec(model=model, image_size=image_size, classes=classes, seed=settings.seed or 0)


def _cases(spec: ModelSpec, workload: Workload, settings: Settings) -> list[Case]:
    return [
        Case(
            spec=spec,
            workload=workload,
            runtime=runtime,
            device=device,
            precision=precision,
            layout=layout,
            batch=batch,
            threads=settings.threads,
        )
        for device in _axis(settings.devices, workload)
        for precision in _axis(settings.precisions, workload)
        for batch in _axis(settings.batches, workload)
        for layout in _axis(settings.layouts, workload)
        for runtime in _axis(settings.runtimes, workload)
    ]


def _axis(value: list[T] | dict[Workload, list[T]] | None, workload: Workload) -> list[T]:
    if isinstance(value, dict):
        return value.get(workload, [])
    return value or []


def _merge(base: Settings, over: Settings) -> Settings:
    """`over` where it says something, else `base`; an axis given per workload replaces only those workloads."""
    merged: dict[str, Any] = {}
    for key in Settings.model_fields:
        low, high = getattr(base, key), getattr(over, key)
        if isinstance(high, dict):
            spread = low if isinstance(low, dict) else {workload: low or [] for workload in get_args(Workload)}
            merged[key] = {**spread, **high}
        else:
            merged[key] = low if high is None else high
    return Settings.model_construct(**merged)

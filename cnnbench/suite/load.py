"""A suite: a YAML file that expands to cases."""

import json
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from cnnbench.errors import InputError, ShapeError, SuiteError, unknown
from cnnbench.networks.trainable import ALL, with_norm
from cnnbench.suite.case import NOISE, QUANTISED, WORKLOADS, Case, Frozen, ModelSpec, Workload
from cnnbench.suite.input_plan import InputPlan
from cnnbench.suite.recipe import TRAINED, Training
from cnnbench.suite.runtimes import OVER_HTTP
from cnnbench.suite.schema import BUILT_IN, CASE_BUDGETS_S, MAX_CASES, Settings, SuiteFile, parse
from cnnbench.suite.yaml_lines import KeyPath, YamlSource, read_yaml

T = TypeVar("T")

EXPECTATION = ".expect.yaml"
"""Suffix of the file beside a suite that holds its exact figures."""
STUDY = "note.yaml"
"""A study beside the suites, which `cnnbench study` runs."""
ANY_BACKEND = {"runtime": OVER_HTTP, "device": "cpu", "precision": "fp32", "layout": "nchw", "allocator": "default"}
SETUP_S = 60.0
"""Allowed per case and launch for building its artifact and starting its workers, in a suite made of single cases."""


class TestSet(Frozen):
    """What a case's artifact is evaluated on."""

    data: str
    """As `--data` takes it."""
    images: int
    """At most so many test images, balanced by class."""


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
    """Maximum number of launches per case."""
    tests: dict[str, TestSet] = {}
    """By id, of the inference cases that are evaluated after they are timed."""
    input: InputPlan | None = None
    """What is measured of the way from stored images to batches."""
    trained: tuple[Training, ...] = ()
    """The models that `cnnbench train-suite` trains."""

    @property
    def digest(self) -> str:
        """Equal for suites that request the same measurements, whatever their comments."""
        content = [self.name, [case.model_dump() for case in self.cases]]
        return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def load_suite(name_or_path: str) -> Suite:
    """A suite from a file, or a bundled one by its name. Raises SuiteError."""
    source = read_yaml(_find(name_or_path))
    return _expand(source, parse(source))


def suite_of(cases: Sequence[Case], case_budget_s: float, launches: int = 1) -> Suite:
    """A suite of given cases, each measured for `case_budget_s` in each launch; its budget is what they need."""
    budgets = {case.id: case_budget_s for case in cases}
    return Suite(
        name="cases",
        description="Cases given one by one.",
        path=Path("cases.yaml"),
        text="".join(f"# {id_}\n" for id_ in budgets),
        budget_s=len(budgets) * launches * (case_budget_s + SETUP_S),
        limit_s=SuiteFile.model_fields["limit"].default,
        cases=tuple({case.id: case for case in cases}.values()),
        case_budgets_s=budgets,
        launches=launches,
    )


def aimed(suite: Suite) -> Suite:
    """The suite's services, each asked over HTTP instead of run here. Raises InputError where it has none."""
    found = {
        each.id: (each, suite.case_budgets_s[case.id])
        for case in suite.cases
        if case.workload == "serving"
        for each in [case.model_copy(update=ANY_BACKEND)]
    }
    if not found:
        raise InputError(f"--target: expected cases of the workload serving; suite {suite.name!r} has none")
    cases = tuple(case for case, _ in found.values())
    budgets = {id_: budget for id_, (_, budget) in found.items()}
    return suite.model_copy(update={"cases": cases, "case_budgets_s": budgets})


def select(cases: Sequence[Case], patterns: Sequence[str]) -> list[Case]:
    """The cases whose ids fit one of the shell patterns; all if there are none. Raises ValueError if none fits."""
    chosen = [case for case in cases if not patterns or any(case.matches(pattern) for pattern in patterns)]
    if not chosen:
        raise ValueError(
            f"expected a pattern that fits a case such as {cases[0].id!r}; {list(patterns)} fits none of {len(cases)}"
        )
    return chosen


def bundled_suites() -> dict[str, Path]:
    """The suites that come with cnnbench, by name: in the installed package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    for folder in (package / "suites", package.parent / "suites"):
        if folder.is_dir():
            files = sorted(path for path in folder.glob("*.yaml") if not path.name.endswith((EXPECTATION, STUDY)))
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
    tests: dict[str, TestSet] = {}
    trained: dict[str, Training] = {}
    defaults = _merge(BUILT_IN, file.defaults)
    for index, entry in enumerate(file.models):
        settings, place = _merge(defaults, entry), source.place(("models", index))
        if entry.inputs is not None:  # whole shapes, beside which no default of a part of them counts
            settings = settings.model_copy(update={"image_size": entry.image_size, "channels": entry.channels})
        assert settings.workloads is not None
        spec = _spec(source, index, entry.model, settings)
        if settings.weights == TRAINED:
            training = _training(source, index, spec, settings)
            trained[training.weights] = training
            spec = spec.model_copy(update={"weights": training.weights})
        if max(settings.ranks or [1]) > 1 and settings.threads is None and "cpu" in _axis(settings.devices, "training"):
            where = _first_place(source, index, "ranks")
            raise SuiteError(f"{where}: expected `threads` beside it, those of each rank on the CPU; got none")
        for case in (case for workload in settings.workloads for case in _cases(spec, workload, settings)):
            try:
                case.check_part()
            except InputError as error:
                raise SuiteError(f"{_first_place(source, index, 'trainable')}: {error}") from None
            if case.id in cases:
                raise SuiteError(f"{place}: case {case.id} stands twice; keep one")
            if len(cases) == MAX_CASES:
                raise SuiteError(f"{place}: expected at most {MAX_CASES:,} cases in all")
            cases[case.id] = case
            budgets[case.id] = settings.case_budget or CASE_BUDGETS_S[case.workload]
            if settings.data and case.workload == "inference":
                tests[case.id] = TestSet(data=settings.data, images=settings.test_images or 0)
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
        tests=tests,
        input=file.input,
        trained=tuple(trained.values()),
    )


def _spec(source: YamlSource, index: int, model: str, settings: Settings) -> ModelSpec:
    try:
        return ModelSpec.checked(
            model,
            settings.image_size,
            settings.classes,
            settings.seed or 0,
            channels=settings.channels,
            inputs=settings.inputs,
            weights=settings.weights,
            loss=settings.loss,
        )
    except ShapeError as error:
        raise SuiteError(f"{_first_place(source, index, 'inputs', 'channels', 'image_size')}: {error}") from None


def _training(source: YamlSource, index: int, spec: ModelSpec, settings: Settings) -> Training:
    """How a model's weights are made. Raises SuiteError where the suite does not say."""
    where = _first_place(source, index, "weights")
    if settings.train is None:
        raise SuiteError(f"{where}: expected `train` beside `weights: {TRAINED}`, such as {{data: shapes}}; got none")
    if (data := settings.train.data or settings.data) is None:
        raise SuiteError(f"{where}: expected `data` in `train`, or beside it; got none")
    return Training(
        spec=spec.model_copy(update={"weights": None}), recipe=settings.train.model_copy(update={"data": data})
    )


def _first_place(source: YamlSource, index: int, *keys: str) -> str:
    """Where the first of these settings that there is stands: in the model's entry, or in the defaults."""
    places: list[KeyPath] = [place for key in keys for place in (("models", index, key), ("defaults", key))]
    return source.place(next((place for place in places if place in source.lines), ("models", index, "model")))


def _cases(spec: ModelSpec, workload: Workload, settings: Settings) -> Iterator[Case]:
    return (
        Case(
            spec=spec,
            workload=workload,
            runtime=runtime,
            device=device,
            precision=precision,
            calibration=(settings.calibration or settings.data or NOISE) if precision in QUANTISED else NOISE,
            layout=layout,
            allocator=allocator,
            trainable=part,
            batch=batch,
            ranks=ranks,
            threads=settings.threads,
            **service,
        )
        for device in _axis(settings.devices, workload)
        for precision in _axis(settings.precisions, workload)
        for batch in _axis(settings.batches, workload)
        for layout in _axis(settings.layouts, workload)
        for runtime in _axis(settings.runtimes, workload)
        for allocator in _axis(settings.allocators, workload)
        for part in (_parts(settings) if workload == "training" else [ALL])
        for service in (_services(settings) if workload == "serving" else [{}])
        for ranks in (settings.ranks or [1] if workload == "training" else [1])
    )


def _parts(settings: Settings) -> list[str]:
    """What is trained, with the mode of batch normalisation in the rest where there is one."""
    pairs = [(part, norm) for part in settings.trainable or () for norm in settings.frozen_norm or ()]
    return list(dict.fromkeys(with_norm(part, norm) for part, norm in pairs))


def _services(settings: Settings) -> list[dict[str, Any]]:
    """How a model is served: the fields of a case."""
    bound_ms = None if settings.p99 is None else settings.p99 * 1e3
    return [
        {"p99_ms": bound_ms, "sessions": sessions, "delay_ms": delay * 1e3}
        for sessions in settings.sessions or ()
        for delay in settings.queue_delays or ()
    ]


def _axis(value: list[T] | dict[Workload, list[T]] | None, workload: Workload) -> list[T]:
    return value.get(workload, []) if isinstance(value, dict) else value or []


def _merge(base: Settings, over: Settings) -> Settings:
    """`over` where it is set, else `base`; an axis given per workload replaces only those workloads."""
    merged: dict[str, Any] = {}
    for key in Settings.model_fields:
        low, high = getattr(base, key), getattr(over, key)
        if isinstance(high, dict):
            high = {workload: _axis(low, workload) for workload in WORKLOADS} | high
        merged[key] = low if high is None else high
    return Settings.model_construct(**merged)

"""Exact figures of a suite's models, free of noise, against an expectation file that is kept with the code.

Counts, exported graphs and the memory formula are equal on every machine. A graph's error against float64 is not, so
only its class is compared.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from cnnbench.analysis import counts
from cnnbench.errors import ExpectationError, ShapeError, SuiteError, first_fault
from cnnbench.networks.trainable import ALL
from cnnbench.networks.training import step_memory
from cnnbench.records import artifact, files
from cnnbench.records.record import Parity
from cnnbench.records.toolchain import library_versions
from cnnbench.runner.artifacts import Artifacts, Building, Built
from cnnbench.runner.tasks import trace
from cnnbench.runner.tasks.export import describe_graph, prove_graph
from cnnbench.suite.case import Case, Frozen, ModelSpec
from cnnbench.suite.load import EXPECTATION, Suite
from cnnbench.suite.yaml_lines import read_yaml

ParityClass = Literal["float32", "coarse", "wrong"]
"""
float32  within the limit: ten times the error of eager float32 on the same machine
coarse   within a thousand times the limit, as after rounding to 16 bits, and within half of the output's RMS
wrong    beyond, or not finite
"""

COARSE_FACTOR, COARSE_LIMIT = 1000.0, 0.5
"""The bounds of `coarse`. Errors of a correct graph vary by factors of two or three between machines, which sum in
different orders: the decade of an error may vary, these classes do not."""

VERSIONS = ("torch", "torchvision", "onnx", "onnxscript")
"""The libraries that determine what is exported."""

HEADING = """\
# Exact figures of suite {suite}'s models: compared by `cnnbench gate {suite} --exact`, written with --update.
"""


class GraphFigures(Frozen):
    """Of an exported graph."""

    operators: dict[str, int]
    """Number of nodes by operator."""
    content_bytes: int
    """Its size, without paths of the machine that wrote it."""
    parity: ParityClass


class ModelFigures(Frozen):
    """Of a model."""

    params: int
    macs: int
    """For one image."""
    disagreements: list[str] = []
    """Between counters of parameters and MACs."""
    inference: GraphFigures | None = None
    """None if it cannot be exported."""
    training: GraphFigures | None = None
    """The exported step; None if the suite trains in PyTorch only, or it cannot be exported."""
    step_peak_bytes: dict[int, int] = {}
    """Peak memory of a training step in float32 with momentum, by formula, for each batch of the suite."""


class Expectation(Frozen):
    """The content of an expectation file."""

    schema_version: Literal[1] = Field(1)
    versions: dict[str, str]
    models: dict[str, ModelFigures]


@dataclass(frozen=True)
class Difference:
    """A figure that differs from the expectation."""

    model: str
    figure: str
    """Its path: `inference.operators.Conv`."""
    expected: object
    """None if there was none."""
    found: object

    def __str__(self) -> str:
        both = isinstance(self.expected, int) and isinstance(self.found, int) and self.expected
        change = f" ({self.found / self.expected - 1:+.2%})" if both else ""  # type: ignore[operator]
        place = f"{self.model}: {self.figure}" if self.figure else self.model
        return f"{place}: expected {_shown(self.expected)}, found {_shown(self.found)}{change}"


@dataclass(frozen=True)
class ExactReport:
    """The result of a comparison."""

    file: Path
    suite: str
    found: Expectation
    differences: list[Difference]
    versions: list[str]
    """Libraries whose version differs from the file's, a sentence each."""

    @property
    def replacement(self) -> str:
        """The lines that the file would need for the models that differ; empty if none does."""
        differing = {difference.model for difference in self.differences}
        models = {name: figures.model_dump() for name, figures in self.found.models.items() if name in differing}
        return _yaml({"models": models}) if models else ""


def expectation_file(suite: Suite) -> Path:
    """Beside the suite: `suites/smoke.expect.yaml`."""
    return suite.path.with_suffix(EXPECTATION)


def check_exact(suite: Suite, file: Path, on_model: Callable[[str], None] = lambda _: None) -> ExactReport:
    """Compare the figures of all models of a suite with the file's; `on_model` is told the progress.

    Raises ExpectationError, before anything is built, for a file that is missing or invalid; ModelError, WorkerError.
    """
    expected = read_expectation(file, suite.name)
    found = find_figures(suite, on_model)
    differences = list(compare(expected.models, found.models))
    versions = [
        f"{name} {expected.versions.get(name, 'none')} then, {found.versions.get(name, 'none')} now"
        for name in VERSIONS
        if expected.versions.get(name) != found.versions.get(name)
    ]
    return ExactReport(file=file, suite=suite.name, found=found, differences=differences, versions=versions)


def read_expectation(file: Path, suite: str) -> Expectation:
    """The content of an expectation file. Raises ExpectationError."""
    remedy = f"`cnnbench gate {suite} --exact --update` writes it"
    if not file.exists():
        expected = f"expected the exact figures of suite {suite!r}; there is no such file"
        raise ExpectationError(f"{file}: {expected}; {remedy}")
    try:
        return Expectation.model_validate(read_yaml(file).data)
    except SuiteError as error:
        raise ExpectationError(f"{error}; {remedy}") from None
    except ValidationError as error:
        raise ExpectationError(f"{file}: {first_fault(error)}; {remedy}") from None


def write_expectation(file: Path, suite: str, found: Expectation) -> None:
    """Write the figures, sorted. Raises ExpectationError."""
    try:
        files.write(file, HEADING.format(suite=suite) + _yaml(found.model_dump()))
    except OSError as error:
        raise ExpectationError(f"{file}: cannot be written: {error.strerror}") from None


def find_figures(suite: Suite, on_model: Callable[[str], None] = lambda _: None) -> Expectation:
    """The present figures of a suite's models. Raises ModelError, WorkerError."""
    by_model: defaultdict[ModelSpec, list[Case]] = defaultdict(list)
    for case in suite.cases:
        by_model[case.spec].append(case)

    def watch(building: Building) -> bool:
        if building.seconds is None:
            on_model(f"{_name(building.spec)}: {building.what}")
        return True

    models = {}
    with Artifacts() as artifacts:
        wanted = {
            spec: artifacts.wanted(spec, (ALL,) if any(case.is_exported_step for case in cases) else ())
            for spec, cases in by_model.items()
        }
        artifacts.build(list(wanted.values()), watch)
        for spec, cases in by_model.items():
            on_model(f"{_name(spec)}: verifying")
            models[_name(spec)] = _figures(spec, cases, artifacts.find(wanted[spec]), artifacts.logs)
    installed = library_versions()
    # Without the build's device: `2.14.1` of `2.14.1+cu130`.
    versions = {name: installed.get(name, "none").partition("+")[0] for name in VERSIONS}
    return Expectation(versions=versions, models=models)


def _name(spec: ModelSpec) -> str:
    return spec.label + (f"/s{spec.seed}" if spec.seed else "")


def _figures(spec: ModelSpec, cases: list[Case], built: Built, logs: Path) -> ModelFigures:
    facts, step = built.require(), built.steps.get(ALL)
    if ALL in built.step_errors:
        raise built.step_errors[ALL]
    summary = counts.summary(spec, facts)
    inference = training = None
    if facts.onnx_error is None:
        parity = prove_graph(spec, built.folder, logs / "prove.log")
        inference = _graph(built.folder / artifact.GRAPH, parity, logs)
    if step is not None and step.error is None:
        training = _graph(built.folder / artifact.STEP, step.parity, logs)
    return ModelFigures(
        params=summary.params,
        macs=summary.macs,
        disagreements=summary.disagreements,
        inference=inference,
        training=training,
        step_peak_bytes=_step_peaks(spec, cases),
    )


def _graph(file: Path, parity: list[Parity], logs: Path) -> GraphFigures:
    held = describe_graph(file, logs / "describe.log")
    return GraphFigures(operators=held.operators, content_bytes=held.content_bytes, parity=parity_class(parity))


def parity_class(parity: list[Parity]) -> ParityClass:
    """The class of the largest error."""
    failed = [each for each in parity if not each.passed]
    bounds = [min(COARSE_FACTOR * each.limit, COARSE_LIMIT) for each in failed]
    if any(each.error is None or each.error > bound for each, bound in zip(failed, bounds, strict=True)):
        return "wrong"
    return "coarse" if failed else "float32"


def _step_peaks(spec: ModelSpec, cases: list[Case]) -> dict[int, int]:
    batches = sorted({case.batch for case in cases if case.workload == "training"})
    if not batches:
        return {}
    network = trace.read(spec).network
    try:
        return {batch: step_memory(network, batch, "momentum").peak for batch in batches}
    except ShapeError:  # inference only
        return {}


def compare(expected: Mapping[str, ModelFigures], found: Mapping[str, ModelFigures]) -> Iterator[Difference]:
    """Every figure that differs; a model that one side lacks is one difference."""
    for name in sorted({*expected, *found}):
        if name not in found or name not in expected:
            sides = ["its figures" if name in side else None for side in (expected, found)]
            yield Difference(name, "", *sides)
            continue
        ours, theirs = (dict(_flat(side[name].model_dump())) for side in (expected, found))
        for figure in sorted({*ours, *theirs}):
            if ours.get(figure) != theirs.get(figure):
                yield Difference(name, figure, ours.get(figure), theirs.get(figure))


def _flat(value: Any, place: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{place}.{key}" if place else str(key))
    else:
        yield place, value


def _shown(value: object) -> str:
    if value is None or value == []:
        return "none"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _yaml(content: Any) -> str:
    return str(yaml.safe_dump(content, sort_keys=True, allow_unicode=True, width=120))

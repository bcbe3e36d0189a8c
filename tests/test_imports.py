"""The process boundary, and the direction of imports; each check has a control that shows it can fail."""

import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

from cnnbench.records import artifact
from cnnbench.records.messages import Build, Close, Closed, Load, Loaded, Open, Opened, Trace, Traced, Warm, Warmed
from cnnbench.records.record import ArtifactFacts
from cnnbench.runner.worker_process import Worker
from cnnbench.suite.case import Case, ModelSpec
from tests.conftest import ROOT

HEAVY = {"torch", "torchvision", "onnxruntime", "timm", "fvcore", "onnx", "onnxscript"}
FOR_REPORTS = {"pandas", "altair", "jinja2", "vl_convert"}
ROOMS = {path.stem for path in (ROOT / "cnnbench").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}


DOWN = "Rooms import those below them"
BOUNDARY = "Only the worker imports engines, and nothing imports the worker"
ACYCLIC = "Modules of a room import each other in no circle"


def is_kept(config: Path) -> bool:
    """Whether the imports of the package keep the contracts in the file; what breaks them is printed."""
    return lint_imports(config_filename=str(config), no_cache=True, no_logo=True) == EXIT_STATUS_SUCCESS


def test_the_package_keeps_its_contracts(capsys: pytest.CaptureFixture[str]) -> None:
    assert is_kept(ROOT / "pyproject.toml"), capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("runner.code", "import tiny.records.code", None),
        ("worker.code", "import torch", None),
        ("analysis.code", "import tiny.runner.code", DOWN),
        ("worker.code", "import tiny.runner.code", DOWN),
        ("another.code", "import tiny.runner.code", DOWN),
        ("runner.code", "def f(): import tiny.worker.code", BOUNDARY),
        ("report.code", "def f(): from torch import nn", BOUNDARY),
        ("runner.code", "from tiny.runner import more", ACYCLIC),
    ],
)
def test_an_import_that_breaks_a_contract_is_seen(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    module: str,
    line: str,
    broken: str | None,
) -> None:
    """In a package with the same rooms and the same contracts."""
    package = tmp_path.name
    for room in ROOMS - {"__init__", "__main__"} | {module.partition(".")[0]}:
        (tmp_path / package / room).mkdir(parents=True)
        for name in ("__init__", "code"):
            (tmp_path / package / room / f"{name}.py").touch()
    (tmp_path / package / "__init__.py").write_text(f"import {package}.api")
    (tmp_path / package / "runner" / "more.py").write_text(f"import {package}.runner.code")
    (tmp_path / package / module.replace(".", "/")).with_suffix(".py").write_text(line.replace("tiny", package))
    config = tmp_path / "pyproject.toml"
    contracts = (ROOT / "pyproject.toml").read_text().partition("[tool.importlinter]")
    config.write_text((contracts[1] + contracts[2]).replace("cnnbench", package))
    monkeypatch.syspath_prepend(tmp_path)
    assert is_kept(config) == (broken is None)
    out = capsys.readouterr().out
    assert {contract for contract in (DOWN, BOUNDARY, ACYCLIC) if f"{contract} BROKEN" in out} == {broken} - {None}


@pytest.mark.parametrize("imports_torch", [False, True])
def test_a_worker_of_onnx_runtime_has_no_torch_in_its_process(tmp_path: Path, imports_torch: bool) -> None:
    """Asked of a live one that has run a case; the control has built a model before."""
    spec = ModelSpec(model="lenet5")
    case = Case(spec=spec, workload="inference", runtime="ort", batch=1)
    folder = artifact.folder_of(spec, "imports")
    with Worker(tmp_path / "build.log", 1, 300) as builder:
        builder.ask(Build(spec=spec, key="imports", folder=str(folder)), ArtifactFacts)
    with Worker(tmp_path / "worker.log", 1, 120) as worker:
        if imports_torch:
            worker.ask(Trace(spec=spec), Traced)
        worker.ask(Load(case=case, threads=1), Loaded)
        worker.ask(Open(case=case, folder=str(folder)), Opened)
        worker.ask(Warm(limit_s=0.01), Warmed)
        closed = worker.ask(Close(), Closed)
    assert closed.ran.torch_in_process is imports_torch


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["count", "resnet18"],
        ["show", "resnet18"],
        ["show", "resnet18", "--formula"],
        ["list", "models"],
        ["cases", "classic"],
        ["schema"],
        ["run", "--help"],
    ],
)
def test_light_commands_import_no_heavy_library(words: list[str]) -> None:
    assert (
        _heavy_after(f"sys.argv = ['cnnbench', *{words!r}]; from cnnbench.cli import app; app(standalone_mode=False)")
        == ""
    )


def test_a_heavy_import_would_be_seen() -> None:
    assert "onnxruntime" in _heavy_after("import onnxruntime")


def test_what_reports_need_is_imported_only_for_reports() -> None:
    assert _heavy_after("import cnnbench.cli, cnnbench.api", FOR_REPORTS) == ""
    assert _heavy_after("import cnnbench.report.sections", FOR_REPORTS) == "altair jinja2"


def _heavy_after(code: str, heavy: set[str] = HEAVY) -> str:
    script = f"import sys\n{code}\nprint('heavy:', *sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.rpartition("heavy:")[2].strip()

"""The process boundary, and the direction of imports; each check has a control that shows it can fail."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "cnnbench"
HEAVY = {"torch", "torchvision", "onnxruntime", "timm", "fvcore", "onnx", "onnxscript"}
FOR_REPORTS = {"pandas", "altair", "jinja2", "vl_convert"}

LAYERS = [
    {"errors", "units"},
    {"networks"},
    {"suite"},
    {"records"},
    {"analysis"},
    {"runner"},
    {"gate"},
    {"report"},
    {"api", "integrations"},
    {"cli"},
]
"""From the bottom up; a module imports from its own row or those before it."""


def modules() -> dict[str, Path]:
    """Module name by file, `__init__` without its suffix."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }


def imported(path: Path) -> set[str]:
    """Every module that a file imports anywhere, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def crossings(name: str, imports: set[str]) -> set[str]:
    """Imports that cross the process boundary from outside."""
    if name.startswith("cnnbench.worker"):
        return set()
    return {i for i in imports if i.split(".")[0] in HEAVY or i.startswith("cnnbench.worker")}


def level(module: str) -> int | None:
    """The row of a `cnnbench.x` module; None for what stands outside the rows."""
    parts = module.split(".")
    if len(parts) < 2 or parts[0] != "cnnbench":
        return None
    return next((row for row, names in enumerate(LAYERS) if parts[1] in names), None)


def upward(name: str, imports: set[str]) -> set[str]:
    """Imports from a higher row."""
    own = level(name)
    return {i for i in imports if own is not None and (other := level(i)) is not None and other > own}


def test_only_the_worker_imports_torch_and_nobody_outside_imports_the_worker() -> None:
    assert {name: found for name, path in modules().items() if (found := crossings(name, imported(path)))} == {}


def test_a_crossing_would_be_seen() -> None:
    assert crossings("cnnbench.runner.run", {"torch.nn"}) == {"torch.nn"}
    assert crossings("cnnbench.runner.interleave", {"cnnbench.worker.timing.measure"}) == {
        "cnnbench.worker.timing.measure"
    }


def test_imports_point_down() -> None:
    assert {name: found for name, path in modules().items() if (found := upward(name, imported(path)))} == {}


def test_an_upward_import_would_be_seen_and_every_module_has_a_row() -> None:
    assert upward("cnnbench.analysis.stats", {"cnnbench.runner.run"}) == {"cnnbench.runner.run"}
    tops = {name.split(".")[1] for name in modules() if name.count(".")} - {"worker", "__main__"}
    assert tops == set().union(*LAYERS)


def test_runtimes_that_run_without_torch_do_not_import_it() -> None:
    for module in (
        "runtimes/ort",
        "runtimes/base",
        "runtimes/registry",
        "reference/parity",
        "timing/measure",
        "timing/memory",
        "timing/stopwatch",
        "loop",
        "probes",
        "profilers/layers",
        "profilers/ort",
        "peaks/kernels",
        "peaks/ort",
        "profilers/onnx_origin",
    ):
        tree = ast.parse((PACKAGE / "worker" / f"{module}.py").read_text())
        top = {name for node in tree.body for name in _names(node)}
        assert not any(name.split(".")[0] == "torch" for name in top), module


def _names(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    return {node.module or ""} if isinstance(node, ast.ImportFrom) else set()


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
    assert _heavy_after("import cnnbench.report.sections", FOR_REPORTS) == "altair jinja2 pandas"


def _heavy_after(code: str, heavy: set[str] = HEAVY) -> str:
    script = f"import sys\n{code}\nprint('heavy:', *sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.rpartition("heavy:")[2].strip()

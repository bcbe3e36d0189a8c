"""What is called from Python."""

import subprocess
import sys
from pathlib import Path

import pytest

import cnnbench
from cnnbench.errors import InputError, RunFolderError
from cnnbench.records.run_folder import Store
from cnnbench.report.bounds import bound_tables
from cnnbench.report.tables import run_tables
from cnnbench.suite.load import load_suite
from tests import scripted
from tests.conftest import Cli, write_suite
from tests.records import ENVIRONMENT
from tests.sample_run import EVIL, sample_run

TINY = """
name: tiny
launches: 1
defaults: {workloads: [inference], batches: [1], case_budget: 0.1s}
models: [lenet5, simple_cnn]
"""
LIGHT = "{'pandas', 'altair', 'vl_convert', 'jinja2', 'pyarrow', 'scipy', 'pydantic', 'torch', 'onnxruntime'}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder as `cnnbench run` leaves it, with records made by hand."""
    suite = load_suite(write_suite(tmp_path, TINY))
    with Store(tmp_path / "run", suite, ENVIRONMENT, resume=False) as store:
        for record in sample_run(tmp_path).records.values():
            store.append(record)
    return tmp_path / "run"


def test_a_run_is_loaded_as_a_frame_tables_and_charts(folder: Path) -> None:
    results = cnnbench.load(folder)
    resnet = results.frame.set_index("id").loc["resnet18/inference/ort/cpu/fp32/b1"]
    assert (resnet["workload"], resnet["batch"], resnet["status"]) == ("inference", 1, "ok")
    assert resnet["ms"] == pytest.approx(20, rel=0.01)
    assert resnet["speedup"] == pytest.approx(2)
    assert len(results.frame) == len(results.run.records)
    names = [table.name for table in [*run_tables(results.run), *bound_tables(results.run)]]
    assert list(results.tables) == names
    assert "bounds" in names
    assert "accuracy-cpu" in results.charts
    assert results.charts["accuracy-cpu"]._repr_svg_().startswith("<svg")


def test_a_notebook_shows_the_tables_and_escapes_them(folder: Path) -> None:
    shown = cnnbench.load(str(folder))._repr_html_()
    assert "Testing CPU, 2 threads" in shown
    assert "mobilenet_v2" in shown
    assert EVIL not in shown


def test_a_report_is_written_beside_the_records(folder: Path) -> None:
    assert cnnbench.load(folder).write() == folder / "report.html"
    assert {"report.html", "report.md", "tables", "charts"} <= {path.name for path in folder.iterdir()}


def test_the_page_is_opened_in_the_users_browser(
    folder: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = tmp_path / "browser.sh"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    done = cli("report", str(folder), "--open")
    assert done.returncode == 0, done.stderr
    assert str(folder / "report.html") in "".join(done.stdout.split())
    assert (tmp_path / "opened").read_text().strip() == (folder / "report.html").as_uri()


def test_what_is_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"expected a run's folder with run.json"):
        cnnbench.load(tmp_path)


def test_a_network_is_counted_in_closed_form_at_any_size() -> None:
    assert cnnbench.count("resnet18").macs == 1_814_073_344
    assert cnnbench.count("resnet18", classes=10).params == 11_181_642
    assert cnnbench.count("resnet18", image_size="448x448").layers[0].output_shape == (64, 224, 224)
    half = cnnbench.count("mobilenet_v2", what_if={"width": 0.5})
    assert half.params < cnnbench.count("mobilenet_v2").params


def test_a_model_of_ones_own_is_counted_as_it_runs(home: Path) -> None:
    assert cnnbench.count("own_models:works", image_size=32).params == 3 * 3 * 3 * 8 + 16 + 45


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "resnet19"}, r"model: expected a model.*did you mean"),
        ({"model": "resnet18", "image_size": "huge"}, "image_size: expected an image size such as 224"),
        ({"model": "mobilenet_v2", "what_if": {"weight": 2}}, "expected a setting"),
    ],
)
def test_a_mistake_names_the_argument(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        cnnbench.count(**arguments)  # type: ignore[arg-type]


def test_a_suite_is_run_and_gone_on_with(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.use(monkeypatch, home, *scripted.lenet())
    suite = write_suite(home, TINY)
    first = cnnbench.run(suite, out="out", only=["lenet5/*/ort/*"], budget="1m")
    assert list(first.run.records) == ["lenet5/inference/ort/cpu/fp32/b1"]
    more = cnnbench.run(suite, out="out", only=["lenet5/*"], resume=True)
    assert set(more.frame["runtime"]) == {"eager", "ort"}
    assert set(more.frame["status"]) <= {"ok", "noisy"}
    assert "lenet5/inference/ort/cpu/fp32/b1: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"only": ["nothing*"]}, "only: expected a pattern that fits a case such as 'lenet5/inference"),
        ({"budget": "soon"}, "budget: expected a duration such as 90s"),
        ({"resume": True}, "resume: expected `out`, the folder"),
    ],
)
def test_a_run_that_is_asked_for_wrongly_measures_nothing(
    home: Path, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        cnnbench.run(write_suite(home, TINY), **arguments)  # type: ignore[arg-type]
    assert not (home / "runs").exists()


def test_importing_cnnbench_imports_nothing_heavy() -> None:
    loaded = f"print(*sorted({LIGHT} & set(sys.modules)))"
    code = f"import sys, cnnbench; {loaded}; cnnbench.load; {loaded}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\npydantic\n"


def test_what_is_public_is_there() -> None:
    assert set(cnnbench.__all__) <= set(dir(cnnbench))
    for name in cnnbench.__all__:
        assert getattr(cnnbench, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = cnnbench.nothing

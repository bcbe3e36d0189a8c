"""A user's own model is known by the file that it is imported from, which is found without importing anything."""

import sys
from pathlib import Path

import pytest

from cnnbench.records.artifact import file_name
from cnnbench.records.toolchain import source_digest
from cnnbench.runner.worker_process import HERE
from cnnbench.suite.case import ModelSpec
from cnnbench.worker.origin import look_here_too


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which is no place of modules, as with the installed command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(tmp_path))])
    (tmp_path / "nets_of_mine.py").write_text("raise RuntimeError('imported')\n")
    package = tmp_path / "package_of_mine" / "inner"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text("x = 1\n")
    return tmp_path


@pytest.mark.parametrize("model", ["nets_of_mine:build", "package_of_mine.inner.nets:build"])
def test_an_edited_model_is_another_and_is_not_imported_to_know_it(here: Path, model: str) -> None:
    before = source_digest(ModelSpec(model=model))
    assert before
    (here / Path(*model.partition(":")[0].split("."))).with_suffix(".py").write_text("y = 2\n")
    assert source_digest(ModelSpec(model=model)) not in ("", before)


@pytest.mark.parametrize("model", ["no_such_module:build", "sys:exit", "package_of_mine.nothing:x", "lenet5"])
def test_what_has_no_file_has_no_digest(here: Path, model: str) -> None:
    assert source_digest(ModelSpec(model=model)) == ""


def test_the_current_folder_is_the_last_place_where_a_worker_looks(here: Path) -> None:
    assert "-P" in HERE.command
    look_here_too()
    look_here_too()
    assert sys.path.count(str(here)) == 1
    assert sys.path[-1] == str(here)


def test_workers_inherit_neither_gits_variables_nor_warnings_that_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_INDEX_FILE", "/x")
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    assert not {"GIT_INDEX_FILE", "PYTHONWARNINGS"} & set(HERE.environment())


def test_onnx_runtime_sends_nothing_about_models_unless_the_user_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 1.29 on it does by default, on Linux too, from a thread of its own."""
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    assert HERE.environment()["ORT_DISABLE_TELEMETRY"] == "1"
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    assert HERE.environment()["ORT_DISABLE_TELEMETRY"] == "0"


def test_a_long_name_becomes_a_file_name_of_its_own() -> None:
    names = [file_name("ё" * 300 + end) for end in ("a", "b")]
    assert len(set(names)) == 2
    assert all(len(name.encode()) <= 120 for name in names)
    assert file_name("resnet18@96x96/k10") == "resnet18-96x96-k10"

"""An exported file is written whole, and over nobody else's."""

from pathlib import Path

import pytest

from cnnbench.errors import InputError
from cnnbench.runner.tasks.export import DATA, _check_beside, _copy, export_training_step
from cnnbench.suite.case import ModelSpec
from cnnbench.suite.optimizer import TIMED_OPTIMIZER


def test_the_weights_of_another_graph_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / DATA).write_text("another graph's")
    with pytest.raises(InputError, match=r"would overwrite .*another's"):
        _check_beside(tmp_path / "b.onnx", tmp_path / DATA)
    (tmp_path / "b.onnx").write_text("its own graph")
    _check_beside(tmp_path / "b.onnx", tmp_path / DATA)


def test_a_step_and_its_weights_cannot_be_one_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="another ending"):
        export_training_step(ModelSpec(model="lenet5"), tmp_path / "x.safetensors", TIMED_OPTIMIZER)


def test_if_one_of_two_files_cannot_be_written_the_other_is_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "made").write_text("new")
    (tmp_path / "out").write_text("old")
    with pytest.raises(InputError, match="cannot be written"):
        _copy({tmp_path / "made": tmp_path / "out", tmp_path / "missing": tmp_path / "beside"})
    assert (tmp_path / "out").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"made", "out"}

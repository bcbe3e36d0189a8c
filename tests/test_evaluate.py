"""`cnnbench evaluate`: the arithmetic against published figures, and real processes on a few images."""

import json
import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cnnbench.analysis.evaluation import Predictions, accuracy, by_class, confusion, differences
from cnnbench.errors import InputError, WorkerError
from cnnbench.records import task_messages, training_history
from cnnbench.records.dataset import Scaling
from cnnbench.records.task_messages import Classified, ClassifyingStarted
from cnnbench.records.training_history import EpochResult, History, Trained
from cnnbench.report import evaluated
from cnnbench.runner.tasks import evaluate
from cnnbench.runner.tasks.evaluate import cases_of
from cnnbench.runner.worker_process import Worker
from cnnbench.suite.case import Case, ModelSpec
from cnnbench.worker import models
from tests import scripted
from tests.conftest import Cli
from tests.scripted import Says
from tests.test_data import images_of, write_images

TWO = Predictions(
    names=["cat", "dog", "emu"],
    labels=[0, 0, 0, 1, 1, 1, 1, 0],
    classes={"eager/cpu": [0, 0, 0, 1, 1, 1, 1, 2], "ort/cpu": [1, 1, 1, 3, 0, 1, 1, 1]},
)


@pytest.mark.parametrize(
    ("correct", "images", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_of_an_accuracy_is_wilsons(correct: int, images: int, low: float, high: float) -> None:
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3."""
    found = accuracy(correct, images)
    assert found.value == correct / images
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_two_backends_are_compared_by_the_images_that_one_alone_gets_right() -> None:
    (found,) = differences(TWO)
    assert (found.only_first, found.only_second) == (5, 0)
    assert found.p == pytest.approx(2 * 0.5**5)
    assert found.images == [0, 1, 2, 3, 4, 7], "the last is wrong in both, and another class"
    (same,) = differences(TWO._replace(classes=dict.fromkeys("ab", TWO.classes["ort/cpu"])))
    assert (same.p, same.images) == (1.0, [])


def test_a_confusion_matrix_has_a_row_for_each_class_and_a_column_for_what_it_is_taken_for() -> None:
    assert confusion(TWO, "eager/cpu") == [[3, 0, 1], [0, 4, 0], [0, 0, 0]]
    assert confusion(TWO, "ort/cpu")[1] == [1, 2, 0, 1], "with a class that the data set has not"
    shares = [each.accuracy and each.accuracy.value for each in by_class(TWO, "eager/cpu")]
    assert shares == [0.75, 1.0, None]


def test_text_has_accuracy_comparison_and_disagreements() -> None:
    text = "\n".join(evaluated.text(TWO))
    assert "eager/cpu: 87.50% [52.91%, 97.76%], 7 correct" in text
    assert "6 of 8 images into different classes: eager/cpu alone is right on 5, ort/cpu alone on 0; p = 0.062" in text
    assert "draws" not in text
    drawn = TWO._replace(draws={"ort/cpu": [3, 4]})
    text = "\n".join(evaluated.text(drawn))
    assert "2 correct; 25.00% to 50.00% in 3 draws of calibration images" in text
    assert evaluated.as_json(drawn)["backends"]["ort/cpu"]["draws"] == [3, 4]
    assert [line.split() for line in text.splitlines() if line.startswith("  3 ")] == [["3", "dog", "dog", "3"]]


def test_the_picture_has_a_matrix_for_each_backend() -> None:
    drawn = evaluated.chart(TWO)
    assert drawn.png.startswith(b"\x89PNG")
    assert all(name in drawn.svg for name in ("eager/cpu", "ort/cpu", "emu"))


def test_each_runtime_classifies_the_same_images_as_the_module_does_and_onnx_runtime_without_torch(
    home: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(home / "data" / "train", "cat", "dog", "emu")
    write_images(home / "data" / "test", "cat", "dog", "emu", count=21)  # more than one batch, and no multiple
    module, shape = models.build(ModelSpec(model="lenet5", seed=3))
    assert isinstance(shape, tuple)
    save_file(module.state_dict(), home / "w.safetensors")
    epoch = EpochResult(epoch=1, seconds=1.0, loss=1.0, rate=0.1, accuracy={"eager": 0.5})
    run = Trained(model="lenet5", runtime="eager", data="data@resized")
    training_history.write(home / "w.history.jsonl", History(run=run, epochs=[epoch]))
    data = images_of(home / "data", shape)
    with torch.inference_mode():
        expected = module.eval()(torch.from_numpy(data.prepare(data.test.images))).argmax(1).numpy()
    with_torch: list[bool] = []
    ask = Worker.ask

    def listening(worker: Worker, request: Any, answer: Any) -> Any:
        found = ask(worker, request, answer)
        if isinstance(found, Classified):
            with_torch.append(found.is_torch_in_process)
        return found

    monkeypatch.setattr(Worker, "ask", listening)
    words = ("evaluate", "lenet5", "--weights", "w.safetensors", "--data", "data", "--confusion", "c.png", "--json")
    done = cli(*words)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "warning: w.safetensors: trained on data@resized" in done.stderr
    assert with_torch == [True, False]
    assert (home / "c.png").read_bytes().startswith(b"\x89PNG")
    matrix = np.zeros((10, 10), int)
    np.add.at(matrix, (data.test.labels, expected), 1)
    size = max(3, 1 + int(expected.max()))
    for backend in ("eager/cpu", "ort/cpu"):
        assert found["backends"][backend]["confusion"] == matrix[:size, :size].tolist()
        assert found["backends"][backend]["correct"] == int((expected == data.test.labels).sum())
    assert found["comparisons"][0]["disagreements"] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lenet5", "--data", "shapes"], "--weights: expected a file of weights of lenet5"),
        (["lenet5", "--data", "shapes", "--weights", "w", "--confusion", "c.pdf"], "expected a file .png or .svg"),
        (["lenet5", "--data", "shapes", "--weights", "w", "--runtime", "ortt"], "did you mean 'ort'?"),
        (["lenet5", "--data", "shapes", "--weights", "w", "--precision", "fp8"], "expected a precision, one of"),
        (["lenet5", "--data", "nowhere", "--weights", "w"], "expected a data set; there is no such folder"),
    ],
)
def test_what_cannot_be_evaluated_is_told(words: list[str], message: str, cli: Cli) -> None:
    done = cli("evaluate", *words)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_runtime_is_asked_for_the_precisions_that_it_has() -> None:
    spec = ModelSpec(model="lenet5")
    cases = cases_of(spec, ["eager", "ort"], ["fp32", "amp-bf16"])
    assert [case.backend for case in cases] == ["eager/cpu", "eager/cpu/amp-bf16", "ort/cpu"]
    with pytest.raises(InputError, match="--runtime ort: ort runs fp32, fp16, int8"):
        cases_of(spec, ["ort"], ["amp-bf16"])


@pytest.mark.parametrize(("left_s", "classified"), [(0.01, None), (600.0, 12), (math.inf, 12)])
def test_images_are_not_classified_where_that_would_outlast_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left_s: float, classified: int | None
) -> None:
    case = Case.from_id("lenet5/inference/eager/cpu/fp32/b4")
    answers = [scripted.Slowly(0.05, Classified(classes=[0, 1], is_torch_in_process=False))] * 6
    script = [Says("start_classifying", ClassifyingStarted()), Says("classify", *answers)]
    scripted.use(monkeypatch, tmp_path, *script, *scripted.lenet())
    about = task_messages.TestPrepared(
        classes=["a", "b"], labels=[0, 1] * 6, scaling=Scaling(mean=(0,), deviation=(1,))
    )
    images, ends_s = evaluate.TestImages("images.npy", about), time.monotonic() + left_s
    of = partial(evaluate.classified, case, tmp_path, images, 1, tmp_path / "log", ends_s=ends_s)
    if classified is not None:
        assert len(of()) == classified
    else:
        with pytest.raises(
            WorkerError, match=r"12 test images would take about \d+ s, more than is left of the budget"
        ):
            of()

"""`cnnbench train`: real processes on a small data set in MNIST's files."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from cnnbench.records.task_messages import Epoch, Evaluated, TrainingStarted
from cnnbench.records.training_history import EpochResult
from cnnbench.suite.case import ModelSpec
from cnnbench.worker import models
from tests import scripted
from tests.conftest import Cli
from tests.scripted import Says


def idx(values: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + b"".join(int(size).to_bytes(4, "big") for size in values.shape)
    return header + values.tobytes()


@pytest.fixture
def stripes(tmp_path: Path) -> Path:
    """Images whose class is the row band that is bright: a task that LeNet learns within a few steps."""
    random = np.random.default_rng(0)
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for part, count in (("train", 640), ("t10k", 200)):
        labels = random.integers(10, size=count).astype(np.uint8)
        images = random.integers(0, 60, size=(count, 28, 28)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[2 * label + 2 : 2 * label + 6] += 150
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    return tmp_path


def test_both_runtimes_learn_the_same_from_the_same_start(stripes: Path, cli: Cli) -> None:
    results, weights = {}, {}
    for runtime in ("eager", "ort"):
        out = stripes / f"{runtime}.safetensors"
        options = ["--runtime", runtime, "--epochs", "2", "--batch", "32", "--lr", "0.02", "--out", str(out), "--json"]
        done = cli("train", "lenet5", "--data", str(stripes), *options)
        assert done.returncode == 0, done.stderr
        results[runtime] = json.loads(done.stdout)
        weights[runtime] = load_file(out)
    first = {runtime: result["epochs"][0] for runtime, result in results.items()}
    assert abs(first["eager"]["loss"] - first["ort"]["loss"]) < 0.02 * first["eager"]["loss"] + 1e-3
    for result in results.values():
        last = result["epochs"][-1]
        assert last["steps"] == 20
        assert last["accuracy"]["eager"] == last["accuracy"]["ort"]
        assert last["accuracy"]["ort"] > 0.5, "ten classes: chance is 0.1"
    assert set(weights["eager"]) == set(weights["ort"])
    difference = max(float(np.abs(weights["eager"][k] - weights["ort"][k]).max()) for k in weights["eager"])
    assert difference < 0.01


def test_the_channels_and_transforms_that_are_given_reach_the_worker(
    cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = EpochResult(epoch=1, seconds=1.0, loss=0.5, rate=0.01, accuracy={"eager": 0.5, "ort": 0.5})
    asked = {"channels": 3, "transforms": ["RandomCrop(32, padding=4)"], "trainable": "head/norm:train"}
    scripted.use(
        monkeypatch,
        home,
        Says(
            "start_training", TrainingStarted(train_images=64, test_images=10, steps_per_epoch=1, parameters=9), **asked
        ),
        Says("advance", Epoch(steps=1, loss=0.5, seconds=0.1, over=True)),
        Says("evaluate", Evaluated(result=result, over=False)),
    )
    words = ["--data", "shapes", "--epochs", "1", "--transform", "transforms.RandomCrop(32, padding=4),"]
    words += ["--trainable", "head", "--frozen-norm", "train"]
    done = cli("train", "mine:net", *words, "--channels", "3", "--image-size", "32")
    assert done.returncode == 0, done.stderr
    assert "test accuracy 50.00% in eager" in done.stdout
    done = cli("train", "lenet5", *words, "--channels", "3")
    assert done.returncode == 2
    assert "lenet5: its inputs are known; expected no `channels`" in done.stderr


def test_a_missing_data_set_is_told_with_the_way_to_get_it(tmp_path: Path, cli: Cli) -> None:
    done = cli("train", "lenet5", "--data", str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert "apt install dataset-fashion-mnist" in done.stderr
    (tmp_path / "train-images-idx3-ubyte").touch()
    done = cli("train", "lenet5", "--data", str(tmp_path))
    assert done.returncode == 2
    assert "train-labels-idx1-ubyte[.gz] is missing" in done.stderr


def test_labels_that_the_model_has_no_class_for_are_told(stripes: Path, cli: Cli) -> None:
    file = stripes / "FashionMNIST" / "raw" / "t10k-labels-idx1-ubyte"
    file.write_bytes(idx(np.full(200, 250, np.uint8)))
    done = cli("train", "lenet5", "--data", str(stripes), "--out", str(stripes / "w.safetensors"))
    assert done.returncode == 2
    assert "expected labels below the model's 10 classes; got 250" in done.stderr


def test_a_damaged_file_is_told(stripes: Path, cli: Cli) -> None:
    file = stripes / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte"
    file.write_bytes(b"<html>not found</html>")
    done = cli("train", "lenet5", "--data", str(stripes))
    assert done.returncode == 2
    assert "train-labels-idx1-ubyte: expected a file of unsigned bytes" in done.stderr


def test_values_keep_their_size_through_a_stack_that_begins_to_be_trained() -> None:
    module, image = models.build(ModelSpec.checked("vgg_style", (32, 32), 10))
    images = torch.randn(8, *image, generator=torch.Generator().manual_seed(0))
    convolutions = [child for child in module.modules() if isinstance(child, torch.nn.Conv2d)]

    def mean_square() -> float:
        found: list[torch.Tensor] = []
        with convolutions[-1].register_forward_hook(lambda _, inputs, output: found.append(output)), torch.no_grad():
            module.eval()(images)
        return float(found[0].square().mean())

    assert 0.5 < mean_square() < 100
    for each in convolutions:
        each.reset_parameters()
    assert mean_square() < 0.05, "with PyTorch's own weights"

"""`cnnbench train`: real processes on a small data set in MNIST's files."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from cnnbench.errors import InputError
from cnnbench.records import dataset
from cnnbench.worker.training_run import prepared, read_idx
from tests.conftest import Cli


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


def test_a_missing_data_set_is_told_with_the_way_to_get_it(tmp_path: Path, cli: Cli) -> None:
    done = cli("train", "lenet5", "--data", str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert "apt install dataset-fashion-mnist" in done.stderr
    (tmp_path / "train-images-idx3-ubyte").touch()
    done = cli("train", "lenet5", "--data", str(tmp_path))
    assert done.returncode == 2
    assert "train-labels-idx1-ubyte[.gz] is missing" in done.stderr


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("sizes-that-overflow", bytes([0, 0, 8, 3]) + (2**31).to_bytes(4, "big") * 3 + b"x" * 64, "expected 9,9"),
        ("header-cut-short", bytes([0, 0, 8, 3, 0, 0]), "bytes of values"),
        ("too-large", bytes([0, 0, 8, 1]) + (5000).to_bytes(4, "big") + bytes(5000), "larger than 1,000 bytes"),
        ("too-large.gz", gzip.compress(bytes([0, 0, 8, 1]) + bytes(5000), mtime=0), "expected at most 1,000 bytes"),
        ("damaged.gz", gzip.compress(b"x" * 100)[:-20], "cannot be read"),
    ],
)
def test_a_file_that_lies_is_told_and_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, message: str
) -> None:
    monkeypatch.setattr("cnnbench.worker.training_run.MAX_BYTES", 1000)
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_idx(str(file))


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


def test_a_model_with_smaller_images_is_refused(stripes: Path) -> None:
    raw = read_idx(dataset.find(stripes).train_images)
    assert raw.shape == (640, 28, 28)
    with pytest.raises(InputError, match="at least 28x28; its images are 1x16x16"):
        prepared(raw, 0.0, 1.0, (1, 16, 16))


def test_images_are_normalised_padded_and_repeated() -> None:
    raw = np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28)
    x = prepared(raw, 100.0, 50.0, (3, 32, 32))
    assert x.shape == (2, 3, 32, 32)
    assert x.dtype == np.float32
    assert x[0, 0, 2, 2] == np.float32(-2.0)
    assert not x[:, :, :2].any()
    assert (x[:, 0] == x[:, 2]).all()

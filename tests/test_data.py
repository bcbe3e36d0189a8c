"""Data sets as `--data` names them: what is read, what is generated, and what is said of those that do not fit."""

import gzip
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from cnnbench.errors import InputError
from cnnbench.records import dataset
from cnnbench.records.dataset import DataSet, Scaling
from cnnbench.records.task_messages import PrepareTest, StartTraining
from cnnbench.suite.case import ModelSpec
from cnnbench.suite.optimizer import Optimizer
from cnnbench.worker.data import idx, preparation, shapes, signals, words
from cnnbench.worker.data.parts import Part, limited, split
from cnnbench.worker.data.preparation import Preparation, scaling_of
from cnnbench.worker.data.read import prepare_test, read
from cnnbench.worker.data.torchvision_sets import opened
from cnnbench.worker.training_run import TrainingRun

IMAGE = (3, 16, 12)
UNSCALED = Scaling(mean=(0.0,), deviation=(1.0,))


# --- shapes and signals ---


def test_a_discs_pixels_cover_its_area() -> None:
    """At any place; its circle has 0.9 of the radius of 8 pixels."""
    for x, y, scale in ((0.0, 0.0, 1.0), (2.3, -3.7, 1.0), (0.5, 0.1, 1.5), (0.0, 0.0, 0.6)):
        covered = shapes.coverage("disc", x, y, 0.0, scale)
        assert covered.sum() == pytest.approx(np.pi * (0.9 * 8 * scale) ** 2, rel=0.01)
        rows, columns = np.mgrid[:32, :32] - 15.5
        centre = (columns * covered).sum() / covered.sum(), (rows * covered).sum() / covered.sum()
        assert centre == pytest.approx((x, y), abs=0.05)


@pytest.mark.parametrize("shape", shapes.CLASSES)
def test_a_shape_is_moved_turned_and_scaled_exactly(shape: str) -> None:
    still = shapes.coverage(shape, 0.0, 0.0, 0.0, 1.0)
    assert 0 < still.sum() < 0.3 * still.size
    np.testing.assert_array_equal(shapes.coverage(shape, 5.0, -3.0, 0.0, 1.0), np.roll(still, (-3, 5), (0, 1)))
    turned = shapes.coverage(shape, 0.0, 0.0, 90.0, 1.0)
    assert np.abs(turned - np.rot90(still)).mean() < 1e-3, "anticlockwise"
    assert shapes.coverage(shape, 0.0, 0.0, 10.0, 1.5).sum() == pytest.approx(2.25 * still.sum(), rel=0.03)


def test_a_drawing_that_is_moved_keeps_its_colours_and_noise() -> None:
    drawing = next(shapes.drawings(1, seed=5))
    image, moved = shapes.draw(drawing), shapes.draw(drawing._replace(x=drawing.x + 6))
    assert image.shape == (3, 32, 32)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image[:, :3], moved[:, :3])
    assert (image != moved).any()


def test_shapes_are_drawn_at_the_networks_size_and_in_grey_for_one_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "TRAIN_IMAGES", 10)
    monkeypatch.setattr(shapes, "TEST_IMAGES", 2)
    monkeypatch.setattr(shapes, "NOISE", 0.0)
    usual = shapes.read().train.images
    np.testing.assert_array_equal(shapes.read((3, 32, 32)).train.images, usual)
    large = read(dataset.find("shapes"), (3, 96, 96), 10)
    assert large.train.images.shape == (10, 3, 96, 96)
    assert large.prepare(large.train.images).std() == pytest.approx(1, abs=1e-3), "no zeros around it"
    halves = large.train.images.reshape(10, 3, 32, 3, 32, 3).mean((3, 5))
    assert np.abs(halves - usual).mean() < 2, "the same picture, with more pixels"
    grey = shapes.read((1, 28, 28)).train.images
    assert grey.shape == (10, 1, 28, 28)
    first = grey[0, 0, 0, 0], usual[0, :, 0, 0] @ shapes.LUMA
    assert first[0] == pytest.approx(first[1], abs=1), "of the background"
    assert shapes.read((3, 224, 200)).train.images.shape[2:] == (128, 128)
    assert [shapes.size_for(each) for each in ((), (1, 512), (3, 40, 60))] == [32, 32, 40]


def test_generated_data_are_the_same_each_time_balanced_and_different_in_training_and_test(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images, counted = ("TRAIN_IMAGES", "TEST_IMAGES"), ("TRAIN_SIGNALS", "TEST_SIGNALS")
    for module, sizes, classes in ((shapes, images, 10), (signals, counted, 10), (words, images, 2)):
        for name in sizes:
            monkeypatch.setattr(module, name, 30)
        first, second = module.read(), module.read()
        np.testing.assert_array_equal(first.train.images, second.train.images)
        assert (first.train.images != first.test.images).any()
        assert (np.bincount(first.train.labels) == 30 / classes).all()
        assert len(first.classes) == classes


def test_a_signal_has_the_periods_that_it_was_asked_for_and_its_noise() -> None:
    wave = signals.Wave("sine", periods=12.0, phase=0.2, amplitude=2.0, noise=0.1, seed=3)
    signal = signals.sample(wave)
    assert signal.shape == (1, 512)
    assert np.abs(np.fft.rfft(signal[0])).argmax() == 12
    noise = signal - signals.sample(wave._replace(noise=0.0))
    assert noise.std() == pytest.approx(0.2, rel=0.15)


def test_a_network_learns_signals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "TRAIN_SIGNALS", 640)
    monkeypatch.setattr(signals, "TEST_SIGNALS", 100)
    spec = ModelSpec(model="cnn1d", image_size=(512,), classes=10)
    settings = Optimizer(name="adam", momentum=0.0, weight_decay=0.0)
    data = DataSet(kind="signals", images=600)
    run = TrainingRun(
        StartTraining(
            spec=spec,
            runtime="eager",
            data=data,
            batch=60,
            optimizer=settings,
            rate=0.003,
            threads=1,
            epochs=4,
            out=str(tmp_path / "w.safetensors"),
        )
    )
    started = run.started()
    assert (started.train_images, started.test_images, started.steps_per_epoch) == (600, 100, 10)
    losses = []
    for _ in range(4):
        run.advance(60)
        losses.append(run.evaluate().result.loss)
    assert losses[-1] < 0.6 * losses[0]


# --- words ---


def test_a_turned_word_is_the_upright_one_turned_and_both_are_whole() -> None:
    for drawing in words.drawings(12, seed=3):
        upright, turned = (words.draw(drawing._replace(is_turned=each), (48, 192)) for each in (False, True))
        np.testing.assert_array_equal(np.rot90(upright, 2, (1, 2)), turned)
        covered = words.coverage(drawing, (48, 192))
        assert covered[1:-1, 1:-1].sum() == pytest.approx(covered.sum()), "nothing is cut off"
        assert 0.03 < covered.mean() < 0.5
        assert sum(letter in words.ONE_WAY for letter in drawing.word) >= 2
        assert abs(np.dot(shapes.LUMA, np.subtract(drawing.colour, drawing.background))) >= words.MIN_CONTRAST


def test_words_are_drawn_at_the_networks_size_and_in_grey_for_one_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "TRAIN_IMAGES", 2)
    monkeypatch.setattr(words, "TEST_IMAGES", 2)
    assert words.read().train.images.shape == (2, 3, 48, 192)
    assert read(dataset.find("words"), (1, 32, 64), 2).train.images.shape == (2, 1, 32, 64)


# --- normalisation by name ---


def test_images_are_normalised_as_the_name_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "TRAIN_IMAGES", 2)
    monkeypatch.setattr(words, "TEST_IMAGES", 2)
    for scale, expected in {
        "0..1": lambda x: x,
        "-1..1": lambda x: 2 * x - 1,
        "imagenet": v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    }.items():
        source = dataset.find(f"words@resized@{scale}")
        assert (source.name, source.kind, source.resize) == (f"words@resized@{scale}", "words", True)
        data = read(source, (3, 48, 192), 2)
        images = torch.from_numpy(data.test.images)
        found = data.prepare(data.test.images)
        np.testing.assert_allclose(found, expected(images.float() / 255).numpy(), atol=1e-5)


def test_a_normalisation_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((words, "IMAGES"), (signals, "SIGNALS")):
        monkeypatch.setattr(module, f"TRAIN_{name}", 10)
        monkeypatch.setattr(module, f"TEST_{name}", 10)
    with pytest.raises(InputError, match="words@imagenet: expected a model of 3 channels; its images have 1"):
        read(dataset.find("words@imagenet"), (1, 48, 192), 2)
    with pytest.raises(InputError, match=r"signals@0..1: expected images of whole numbers up to 255; leave out @0..1"):
        read(dataset.find("signals@0..1"), (1, 512), 10)


# --- parts ---


def numbered(*counts: int) -> Part:
    """As many images of each class as are given, each the number of its place."""
    labels = np.repeat(np.arange(len(counts)), counts)
    return Part(np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1), labels)


def test_a_share_is_held_out_of_each_class_in_proportion_and_the_seed_settles_which() -> None:
    whole = numbered(100, 40, 60)
    rest, held_out = split(whole, 0.1, 7, "--held-out")
    assert np.bincount(held_out.labels).tolist() == [10, 4, 6]
    both = np.concatenate([rest.images.ravel(), held_out.images.ravel()])
    assert sorted(both.tolist()) == list(range(200))
    assert (whole.labels[held_out.images.ravel()] == held_out.labels).all()
    np.testing.assert_array_equal(held_out.images, split(whole, 0.1, 7, "--held-out")[1].images)
    assert (held_out.images != split(whole, 0.1, 8, "--held-out")[1].images).any()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.999, 1.0])
def test_a_share_of_nothing_is_refused(share: float) -> None:
    with pytest.raises(
        InputError, match=r"--held-out: expected a share that leaves images on both sides; got \d+ of 4"
    ):
        split(numbered(2, 2), share, 0, "--held-out")


def test_so_many_images_are_of_each_class_alike_as_far_as_there_are() -> None:
    few = limited(numbered(100, 3, 50), 23, 1)
    assert np.bincount(few.labels).tolist() == [10, 3, 10]
    assert len(set(few.images.ravel().tolist())) == 23
    assert len(limited(numbered(2, 3), 100, 1).labels) == 5
    with pytest.raises(InputError, match="--images: expected at least one image of each of the 3 classes; got 2"):
        limited(numbered(5, 5, 5), 2, 0)


# --- preparation ---


def test_images_are_normalised_by_channel_without_the_whole_set_in_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "CHUNK", 3)
    images = np.random.default_rng(0).integers(0, 256, (10, 2, 4, 5)).astype(np.uint8)
    images[:, 1] //= 3
    scaling = scaling_of(images)
    np.testing.assert_allclose(scaling.mean, images.mean((0, 2, 3)))
    np.testing.assert_allclose(scaling.deviation, images.std((0, 2, 3)))
    x = Preparation(scaling, (2, 4, 5))(images)
    np.testing.assert_allclose(x.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(x.std((0, 2, 3)), 1, atol=1e-5)
    assert scaling_of(np.full((4, 1, 8), 7.0, np.float32)).deviation == (1.0,)


def test_images_are_put_into_the_middle_and_repeated_and_signals_too() -> None:
    images = np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 1, 28, 28)
    x = Preparation(Scaling(mean=(100.0,), deviation=(50.0,)), (3, 32, 32))(images)
    assert x.shape == (2, 3, 32, 32)
    assert x.dtype == np.float32
    assert x[0, 0, 2, 2] == np.float32(-2.0)
    assert not x[:, :, :2].any()
    assert (x[:, 0] == x[:, 2]).all()
    signal = Preparation(UNSCALED, (1, 8))(np.ones((2, 1, 5), np.float32))
    assert signal.tolist() == [[[0, 1, 1, 1, 1, 1, 0, 0]]] * 2


@pytest.mark.parametrize(
    ("own", "model", "message"),
    [
        ((1, 28, 28), (1, 16, 16), "at least 1x28x28, or of more channels; its images are 1x16x16"),
        ((3, 32, 32), (1, 32, 32), "at least 3x32x32; its images are 1x32x32"),
        ((1, 512), (1, 28, 28), "at least 1x512, or of more channels; its images are 1x28x28"),
        ((1, 28, 28), (1, 1024), "at least 1x28x28, or of more channels; its images are 1x1024"),
    ],
)
def test_a_model_of_other_images_is_refused(own: tuple[int, ...], model: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Preparation(UNSCALED, model).check(own)


# --- resized images ---


@pytest.mark.parametrize(("height", "width"), [(28, 28), (40, 60), (61, 40), (300, 401)])
def test_images_are_resized_as_torchvision_does_before_its_pretrained_networks(height: int, width: int) -> None:
    """Both as pictures and as tensors; smaller and larger ones."""
    from torchvision.transforms._presets import ImageClassification

    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    expected = ImageClassification(crop_size=32, resize_size=32, mean=(0.0,) * 3, std=(1.0,) * 3)
    picture = Image.fromarray(pixels)
    found = np.asarray(preparation.resized(picture, (32, 32))).transpose(2, 0, 1)
    np.testing.assert_array_equal(found, np.rint(255 * expected(picture).numpy()))
    stored = np.ascontiguousarray(pixels.transpose(2, 0, 1))[None]
    found = Preparation(UNSCALED, (3, 32, 32), resize=True).resized(stored)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.rint(255 * expected(torch.tensor(stored)).numpy()))


def test_resized_images_keep_their_proportions_and_lose_what_does_not_fit_on_both_sides() -> None:
    """Four columns, of which the outer ones are cut off; each pixel becomes four."""
    images = np.tile(np.array([10, 20, 40, 80], np.float32), (1, 1, 2, 1))
    tall = images.transpose(0, 1, 3, 2)
    prepare = Preparation(Scaling(mean=(20.0,), deviation=(10.0,)), (3, 4, 4), resize=True)
    row = np.array([17.5, 25.0, 35.0, 50.0])  # between the centres of the columns, three to one
    assert prepare.resized(images)[0, 0].tolist() == [row.tolist()] * 4
    np.testing.assert_array_equal(prepare.resized(tall)[0, 0], np.tile(row, (4, 1)).T)
    assert prepare(images).shape == (1, 3, 4, 4)
    np.testing.assert_allclose(prepare(images)[0, 2, 3], (row - 20) / 10)
    wide = Preparation(UNSCALED, (1, 4, 8), resize=True)
    assert wide.resized(images)[0, 0, 1].tolist() == [10, 12.5, 17.5, 25, 35, 50, 70, 80], "nothing is cut off"


def test_larger_images_are_averaged_and_not_sampled() -> None:
    """A pattern of single pixels becomes grey."""
    board = np.indices((64, 64)).sum(0) % 2 * np.uint8(255)
    small = Preparation(UNSCALED, (1, 8, 8), resize=True).resized(board[None, None].astype(np.uint8))
    assert np.abs(small.astype(int) - 127.5).max() < 2


def test_images_of_any_size_fit_where_they_are_resized_and_signals_are_refused() -> None:
    for own in ((1, 28, 28), (3, 300, 200)):
        Preparation(UNSCALED, (3, 32, 32), resize=True).check(own)
    with pytest.raises(InputError, match="its images are 1x32x32"):
        Preparation(UNSCALED, (1, 32, 32), resize=True).check((3, 32, 32))
    with pytest.raises(InputError, match="expected images to resize; got 1x512: leave out @resized"):
        read(dataset.find("signals@resized"), (1, 1024), 10)


def test_a_name_with_resized_behind_it_is_the_same_data_set_and_another_preparation(tmp_path: Path) -> None:
    write_idx(tmp_path)
    plain, found = (dataset.find(f"{tmp_path}{behind}") for behind in ("", "@resized"))
    assert (plain.resize, found.resize, plain.folder) == (False, True, found.folder)
    assert found.name == f"{tmp_path}@resized"
    assert dataset.fingerprint(found.name) == dataset.fingerprint(plain.name) != ""
    with pytest.raises(InputError, match=r"at least 1x5x4, .*its images are 1x4x4 \(--image-size, or @resized behind"):
        read(plain, (1, 4, 4), 6)
    data = read(found, (1, 4, 4), 6)
    assert data.train.images.shape[2:] == (5, 4), "as they are stored, so that memory holds them"
    assert data.prepare(data.train.images).shape == (6, 1, 4, 4)


def test_test_images_are_resized_before_a_process_without_torch_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnnbench.worker.data.read.CHUNK", 4)
    test = np.random.default_rng(0).integers(0, 256, (6, 5, 4)).astype(np.uint8)
    write_idx(tmp_path, test_images=test)
    found = {}
    for behind in ("", "@resized"):
        data, file = dataset.find(f"{tmp_path}{behind}"), str(tmp_path / f"images{behind}.npy")
        about = prepare_test(PrepareTest(data=data, shape=(3, 10, 8), classes=6, out=file))
        assert about.labels == list(range(6))
        found[behind] = np.load(file), Preparation(about.scaling, (3, 10, 8))(np.load(file))
    (stored, padded), (resized, prepared) = found[""], found["@resized"]
    np.testing.assert_array_equal(stored, test[:, None])
    assert (resized.shape, resized.dtype) == ((6, 1, 10, 8), np.uint8)
    np.testing.assert_array_equal(prepared, read(data, (3, 10, 8), 6).prepare(stored))
    assert (padded != prepared).any()


# --- files in MNIST's format ---


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
    monkeypatch.setattr(idx, "MAX_BYTES", 1000)
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        idx.read_idx(str(file))


def write_idx(folder: Path, **changed: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    """Six images and labels to train and to test, or others."""
    arrays = {"train_images": np.zeros((6, 5, 4)), "train_labels": np.arange(6), "test_images": np.zeros((6, 5, 4))}
    for name, file in zip((*arrays, "test_labels"), dataset.IDX, strict=True):
        values = changed.get(name, arrays.get(name, np.arange(6))).astype(np.uint8)
        sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
        (folder / file).write_bytes(bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"test_images": np.zeros((6, 4, 4))}, "test images of the training images' size; got 5x4 and 4x4"),
        ({"train_labels": np.arange(5)}, "a label for each image, and one at least; got 5 in train-labels-idx1-ubyte"),
        ({"test_images": np.zeros((0, 5, 4)), "test_labels": np.arange(0)}, "one at least; got 0 in t10k-labels"),
        ({"train_labels": np.zeros((6, 1))}, r"images of 3 axes and labels of 1 .*; got \(3, 2\)"),
    ],
)
def test_files_that_do_not_fit_each_other_are_told(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    write_idx(tmp_path, **changed)
    with pytest.raises(InputError, match=message):
        idx.read(str(tmp_path))


def test_a_label_that_the_model_has_no_class_for_is_told_with_its_name(tmp_path: Path) -> None:
    write_idx(tmp_path)
    with pytest.raises(InputError, match=r"below the model's 5 classes; got 5, which is '5' \(--classes 6\)"):
        read(dataset.find(str(tmp_path)), (1, 28, 28), 5)
    assert read(dataset.find(str(tmp_path), images=6), (1, 28, 28), 6).classes == list("012345")


# --- torchvision's ---


def write_images(folder: Path, *classes: str, size: tuple[int, int] = (20, 30), count: int = 5) -> None:
    """Pictures (width, height) of one brightness for each class."""
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for place in range(count):
            Image.new("RGB", size, (40 * number, 10, place)).save(folder / name / f"{place}.png")


def images_of(folder: Path, shape: tuple[int, ...] = IMAGE) -> Any:
    return read(dataset.find(str(folder)), shape, 10)


def test_a_folder_of_images_is_read_by_class_and_resized(tmp_path: Path) -> None:
    write_images(tmp_path / "train", "cat", "dog")
    write_images(tmp_path / "val", "cat", "dog", size=(7, 9), count=2)
    data = images_of(tmp_path)
    assert data.classes == ["cat", "dog"]
    assert data.train.images.shape == (10, *IMAGE)
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    assert (data.train.images[data.train.labels == 1][:, 0] == 40).all()
    assert images_of(tmp_path, (1, 16, 12)).train.images.shape == (10, 1, 16, 12)


def test_pictures_of_a_folder_are_stretched_or_keep_their_proportions(tmp_path: Path) -> None:
    """A dark picture with a bright disc in the middle, twice as wide as high."""
    rows, columns = np.mgrid[:40, :80]
    disc = ((rows - 19.5) ** 2 + (columns - 39.5) ** 2 < 15**2) * np.uint8(255)
    for part in ("train", "test"):
        (tmp_path / part / "disc").mkdir(parents=True)
        Image.fromarray(disc.astype(np.uint8)).save(tmp_path / part / "disc" / "0.png")
    found = [read(dataset.find(f"{tmp_path}{behind}"), (1, 20, 20), 1).test.images[0, 0] for behind in ("", "@resized")]
    sides = [int((image > 127).any(axis).sum()) for image in found for axis in (0, 1)]
    assert sides == pytest.approx([7.5, 15, 15, 15], abs=1), "width and height of the disc in either"


def test_a_picture_that_would_become_huge_is_refused_where_it_is_resized(tmp_path: Path) -> None:
    write_images(tmp_path, "line", size=(5001, 50))
    assert images_of(tmp_path).train.images.shape == (4, *IMAGE)
    with pytest.raises(InputError, match=r"line/0\.png: expected sides of at most 1 to 100 .*; got 5001x50"):
        read(dataset.find(f"{tmp_path}@resized"), IMAGE, 10)


def test_a_fifth_of_a_folder_without_parts_is_for_the_test_whatever_the_seed(tmp_path: Path) -> None:
    write_images(tmp_path, "cat", "dog", count=10)
    found = [read(dataset.find(str(tmp_path), seed=seed), IMAGE, 10) for seed in (0, 1)]
    assert [np.bincount(data.test.labels).tolist() for data in found] == [[2, 2], [2, 2]]
    np.testing.assert_array_equal(found[0].test.images, found[1].test.images)


def _break(folder: Path) -> None:
    (folder / "train" / "dog" / "3.png").write_bytes(b"\x89PNG no picture")


def _empty(folder: Path) -> None:
    (folder / "train" / "bird").mkdir()


def _extra(folder: Path) -> None:
    write_images(folder / "test", "wolf")


def _no_test(folder: Path) -> None:
    (folder / "test").rename(folder / "more")


def test_pictures_of_16_bits_keep_their_range_and_those_of_32_are_refused(tmp_path: Path) -> None:
    ramp = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    for bits, values in (("16", ramp), ("8", (ramp >> 8).astype(np.uint8)), ("32", ramp.astype(np.int32))):
        Image.fromarray(values).save(tmp_path / f"{bits}.tif")
    for mode in ("L", "RGB"):
        read = [np.asarray(opened(str(tmp_path / f"{bits}.tif"), mode)) for bits in ("16", "8")]
        assert np.array_equal(read[0], read[1])
        assert read[0].max() == 63_000 >> 8
    with pytest.raises(InputError, match=r"32\.tif: .*expected 8 or 16 bits per value; it has 32"):
        opened(str(tmp_path / "32.tif"), "L")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_break, r"train/dog/3\.png: cannot be read as an image"),
        (_empty, r"train: class 'bird' has no images; expected one at least in .*bird"),
        (_extra, r"the same classes in train and test; .*train has no 'wolf'"),
        (_no_test, "expected a folder `test` or `val` beside `train`"),
    ],
)
def test_a_folder_of_images_that_is_not_whole_is_told_by_name(
    tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    write_images(tmp_path / "train", "cat", "dog")
    write_images(tmp_path / "test", "cat", "dog")
    change(tmp_path)
    with pytest.raises(InputError, match=message):
        images_of(tmp_path)


def test_a_folder_of_images_is_refused_where_no_picture_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path, "cat", "dog")
    with pytest.raises(InputError, match="images of 1 or 3 channels; its inputs are 1x512"):
        images_of(tmp_path, (1, 512))
    monkeypatch.setattr("cnnbench.worker.data.torchvision_sets.MAX_MEMORY_SHARE", 1e-12)
    with pytest.raises(InputError, match=r"10 images of 3x16x12 take 0\.0 GB, which is more than half"):
        images_of(tmp_path)


def write_cifar(folder: Path) -> None:
    """CIFAR-10's files, with one image in each batch."""
    folder.mkdir()
    pixels = np.arange(3 * 32 * 32, dtype=np.int64).reshape(1, -1) % 251
    for number, name in enumerate((*(f"data_batch_{each}" for each in range(1, 6)), "test_batch")):
        (folder / name).write_bytes(pickle.dumps({"data": pixels.astype(np.uint8), "labels": [number]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))


def test_cifar_is_read_as_torchvision_left_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path / "cifar-10-batches-py")
    source = dataset.find(str(tmp_path))
    assert source == dataset.find(str(tmp_path / "cifar-10-batches-py"))
    with pytest.raises(InputError, match=r"expected CIFAR10 as .* leaves it; a file is missing, or its MD5 sum"):
        read(source, (3, 32, 32), 10)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    data = read(source, (3, 32, 32), 10)
    assert data.train.images.shape == (5, 3, 32, 32)
    assert data.train.images[0, 1, 0, 3] == (32 * 32 + 3) % 251
    assert data.test.labels.tolist() == [5]
    assert data.classes == list("abcdefghij")


# --- what `--data` names ---


def test_digits_are_read_where_scikit_learn_is_and_else_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "find_spec", lambda name: None)
        with pytest.raises(InputError, match=r"digits: needs scikit-learn, .*: pip install scikit-learn"):
            dataset.find("digits")
    pytest.importorskip("sklearn")
    data = read(dataset.find("digits"), (1, 8, 8), 10)
    assert len(data.train.labels) + len(data.test.labels) == 1797
    assert data.train.images.shape[1:] == (1, 8, 8)


def test_a_folder_of_several_data_sets_or_of_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a data set; the folder has none"):
        dataset.find(str(tmp_path))
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    write_idx(tmp_path / "MNIST" / "raw")
    assert dataset.find(str(tmp_path)).kind == "idx"
    (tmp_path / "cifar-100-python").mkdir()
    with pytest.raises(InputError, match=r"expected one data set; give .*MNIST/raw or .*cifar-100-python"):
        dataset.find(str(tmp_path))

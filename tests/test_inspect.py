"""What layers put out: figures from values by hand, pictures read back by Pillow, and real models of each kind."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnbench.analysis.activations import MAX_SIDE, activations_of, channel_axes, thumbnails
from cnnbench.errors import ModelError
from cnnbench.networks.receptive import Field
from cnnbench.networks.registry import ARCHITECTURES
from cnnbench.records.dataset import DataSet
from cnnbench.records.task_messages import OwnInput, PrepareTest, Value
from cnnbench.report.inspection import FIELD_COLOUR, all_pictures, as_json, page
from cnnbench.report.pictures import BACKGROUND, CURVE_HEIGHT, Picture, beside, curve, grey, grid, signed
from cnnbench.runner.tasks.inspect import Inspection, Layer, fields_of
from cnnbench.worker.data import signals
from cnnbench.worker.data.read import prepare_test
from cnnbench.worker.reference.image_file import with_image
from tests.conftest import Cli
from tests.test_data import write_images


def test_dead_units_zeros_and_a_histogram_are_counted() -> None:
    values = np.zeros((2, 4, 2, 2))
    values[0, 1] = [[1, 2], [3, 4]]
    values[1, 2, 0, 0] = -4
    values[:, 3] = 0.5  # the same everywhere, so it is dead too
    found = activations_of(values)
    assert (found.units, found.dead, found.zeros) == (4, 0.5, (32 - 4 - 1 - 8) / 32)
    assert (found.low, found.high, sum(found.counts)) == (-4, 4, 32)
    assert found.counts[0] == 1
    assert found.mean == pytest.approx((10 - 4 + 4) / 32)
    assert activations_of(values[:1, :, :1, :1]).dead is None  # of one number, nothing can be told


def test_numbers_that_are_none_are_counted_apart() -> None:
    found = activations_of(np.array([[[1.0, np.nan, np.inf, 3.0]]]))
    assert (found.not_finite, found.low, found.high) == (2, 1, 3)


def test_large_maps_are_shrunk_to_means_of_neighbours() -> None:
    maps = np.arange(2 * 130.0).reshape(1, 2, 130)
    small = thumbnails(maps)
    assert small.shape == (1, 2, 44)
    assert max(small.shape) <= MAX_SIDE
    assert small[0, 0, 0] == 1.0
    assert small[0, 0, -1] == 129.0  # the last holds what is left


def test_maps_of_a_volume_are_of_its_middle_slice_and_of_many_channels_the_first() -> None:
    volume = np.arange(2 * 5 * 3 * 2.0).reshape(2, 5, 3, 2)
    assert np.array_equal(thumbnails(volume), volume[:, 2])
    assert thumbnails(np.ones((3, 64, 65))).shape == (3, 64, 33)
    values = np.random.default_rng(0).standard_normal((2, 70, 3, 3))
    found = activations_of(values)
    assert np.array_equal(found.maps, values[0, :64].astype(np.float32))
    assert (found.units, len(found.counts), found.dead) == (70, 40, 0.0)
    assert found.deviation == pytest.approx(values.std())
    flat = activations_of(np.full((2, 3, 4), 2.0))
    assert (flat.low, flat.high, flat.deviation, flat.dead, flat.zeros) == (2.0, 2.0, 0.0, 1.0, 0.0)
    assert (flat.counts[0], sum(flat.counts)) == (24, 24)
    none = activations_of(np.full((1, 2, 3), np.nan))
    assert (none.low, none.high, none.mean, none.deviation, none.not_finite) == (0.0, 0.0, 0.0, 0.0, 6)


def value(operator: str, shape: tuple[int, ...], *inputs: int) -> Value:
    return Value(module=operator, name=operator, operator=operator, shape=shape, inputs=list(inputs))


def test_channels_are_followed_through_a_permutation() -> None:
    network = [
        value("conv2d", (1, 8, 5, 5)),
        value("permute", (1, 5, 5, 8), 0),
        value("linear", (1, 5, 5, 16), 1),
        value("permute", (1, 16, 5, 5), 2),
        value("view", (1, 400), 3),
    ]
    assert channel_axes(network) == [1, 3, 3, 1, None]
    others = [
        value("input", (1, 4, 4, 4)),
        value("permute", (1, 4, 4, 4), 0),
        value("transpose", (1, 4, 4, 4), 1),
        value("view", (1, 16, 4), 1),
        value("relu", (1, 4, 4, 4), 1),
        value("flatten", (1, 64), 4),
        value("unflatten", (1, 4, 4, 4), 5),
        value("permute", (1, 4, 8, 2), 0),
    ]
    assert channel_axes(others) == [1, 3, 1, 1, 3, None, 1, 1]


def test_a_value_has_the_receptive_field_of_its_layer_or_of_what_it_is_made_of() -> None:
    stem, maps = (1, 64, 112, 112), (1, 64, 56, 56)
    names = {"conv1": stem, "bn1": stem, "relu": stem, "maxpool": maps, "layer1.0.conv1": maps, "layer1.0.bn1": maps}
    first = [
        Value(module=name, name=name, operator="", shape=shape, inputs=[place - 1] if place else [])
        for place, (name, shape) in enumerate(names.items())
    ]
    block = [
        Value(module="layer1.0.relu", name="relu", operator="relu", shape=maps, inputs=[5]),
        Value(module="layer1.0.conv2", name="conv2d", operator="conv2d", shape=maps, inputs=[6]),
        Value(module="layer1.0", name="add", operator="add", shape=maps, inputs=[3, 7]),
        Value(module="layer1.0.relu", name="relu_1", operator="relu", shape=maps, inputs=[8]),
        Value(module="layer1.0.relu", name="view", operator="view", shape=(1, 64, 3136), inputs=[9]),
    ]
    found = fields_of(ARCHITECTURES["resnet18"].network(), [*first, *block])
    assert [field and [axis.size for axis in field] for field in found] == [
        *([7, 7], [7, 7], [7, 7], [11, 11], [19, 19], [19, 19]),
        *([19, 19], [27, 27], [27, 27], [27, 27], ()),
    ]


def test_what_is_spread_over_all_places_makes_the_field_the_whole_image() -> None:
    network = ARCHITECTURES["lenet5"].network()
    conv, scale = value("conv1", (1, 6, 24, 24)), value("sigmoid", (1, 6, 1, 1))
    pooled = [conv, value("pool1", (1, 6, 12, 12), 0), value("mul", (1, 6, 24, 24), 0, 1)]
    assert fields_of(network, pooled)[2] is None
    assert fields_of(network, [conv, scale])[1] == ()


def test_a_png_is_what_pillow_reads(tmp_path: Path) -> None:
    pixels = grid(grey(np.array([[[0.0, 1.0], [0.5, 1.0]], [[5.0, 5.0], [5.0, np.nan]]])), columns=2)
    (tmp_path / "x.png").write_bytes(Picture("x", "", "", pixels).png)
    read = np.asarray(Image.open(tmp_path / "x.png"))
    assert np.array_equal(read, pixels)
    assert read.shape == (2, 5, 3)
    assert read[0, :2, 0].tolist() == [0, 255]
    assert tuple(read[0, 2]) == BACKGROUND
    assert tuple(read[1, 4]) == (255, 0, 255)  # a number that is none


def test_differences_are_white_at_zero_red_above_and_blue_below() -> None:
    white, red, blue = signed(np.array([[0.0, 2.0, -2.0]]))[0]
    assert white.tolist() == [255, 255, 255]
    assert red[0] > red[2]
    assert blue[2] > blue[0]
    assert beside([np.zeros((2, 3, 3), np.uint8)] * 2).shape == (2, 9, 3)


def test_a_signal_is_a_curve_from_its_least_number_at_the_bottom_to_its_largest_at_the_top() -> None:
    drawn = curve(np.array([[0.0, 1.0, 0.5, 0.5]]))[..., 0] == 0
    assert drawn.shape == (CURVE_HEIGHT, 4)
    assert drawn[:, 0].all()  # the line from the bottom to the top
    assert np.flatnonzero(drawn[:, 1])[[0, -1]].tolist() == [0, round(0.5 * (CURVE_HEIGHT - 1))]
    assert drawn[:, 2].sum() == 1
    assert curve(np.zeros((2, 5))).shape == (2 * CURVE_HEIGHT + 1, 5, 3)


def test_a_batch_of_a_data_set_is_taken_as_it_is_normalised_and_with_one_of_each_class_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "TRAIN_SIGNALS", 30)
    monkeypatch.setattr(signals, "TEST_SIGNALS", 30)
    file, stored = str(tmp_path / "images.npy"), signals.read()
    found = prepare_test(
        PrepareTest(data=DataSet(kind="signals"), shape=(1, signals.LENGTH), classes=None, out=file, count=12)
    )
    images = np.load(file)
    assert images.shape == (12, 1, signals.LENGTH)
    assert sorted(found.labels[:10]) == list(range(10))
    normalised = (stored.test.images - stored.train.images.mean()) / stored.train.images.std()
    place = int(np.abs(normalised - images[3]).sum(axis=(1, 2)).argmin())
    np.testing.assert_allclose(images[3], normalised[place], atol=1e-5)
    assert stored.test.labels[place] == found.labels[3]
    batch = with_image(np.zeros((12, 1, signals.LENGTH), np.float32), OwnInput(file=file, is_batch=True))
    assert np.array_equal(batch, images)


def test_an_image_is_resized_and_scaled_and_what_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    grey_image, colour_image, signal = (str(tmp_path / name) for name in ("grey.png", "colour.jpg", "signal.csv"))
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(255, size=(40, 30), dtype=np.uint8)).save(grey_image)
    Image.fromarray(random.integers(255, size=(40, 30, 3), dtype=np.uint8)).save(colour_image)
    np.savetxt(signal, random.standard_normal(256))
    for file, shape in ((grey_image, (2, 1, 28, 28)), (colour_image, (1, 3, 20, 24)), (signal, (1, 1, 256))):
        batch = with_image(np.zeros(shape, np.float32), OwnInput(file=file))
        assert isinstance(batch, np.ndarray)
        assert batch.shape == shape
        assert batch.dtype == np.float32
        assert abs(float(batch[0].mean())) < 1e-5
        assert float(batch[0].std()) == pytest.approx(1, abs=1e-4)
    deep = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(deep).save(tmp_path / "deep.png")  # 16 bits
    for channels in (1, 3):
        batch = with_image(np.zeros((1, channels, 8, 8), np.float32), OwnInput(file=str(tmp_path / "deep.png")))
        assert isinstance(batch, np.ndarray)
        np.testing.assert_allclose(batch[0, -1], (deep - deep.mean()) / deep.std(), atol=1e-4)
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.npy").touch()
    for file, shape, said in (
        (str(tmp_path / "text.png"), (1, 3, 8, 8), "expected a picture that Pillow reads, or numbers"),
        (str(tmp_path / "empty.npy"), (1, 3, 8, 8), "expected a picture that Pillow reads, or numbers"),
        (signal, (1, 1, 100), "expected 1x100 finite numbers, as the model's input has; got 256"),
        (grey_image, (1, 1, 100), "expected a file of numbers"),
    ):
        with pytest.raises(ModelError, match=said):
            with_image(np.zeros(shape, np.float32), OwnInput(file=file))


def inspected(image: tuple[int, ...], kernels: tuple[int, ...], maps: tuple[int, ...], fields: int) -> Inspection:
    """Of random numbers: an image, the first kernels, and the maps of two layers in two runs."""
    random = np.random.default_rng(0)
    axis = Field(Fraction(1), Fraction(0), Fraction(kernels[-1] - 1))
    runs = {run: activations_of(random.standard_normal(maps)) for run in ("float64", "ort")}
    layers = [Layer(value("conv", maps), runs, (axis,) * fields), Layer(value("pool", maps), runs, None)]
    x, w = (random.standard_normal(shape).astype(np.float32) for shape in (image, kernels))
    return Inspection("net", x, "'seven' of digits", 2, w, "conv", layers)


@pytest.mark.parametrize(
    ("image", "kernels", "maps", "fields"),
    [
        ((1, 28, 28), (6, 1, 5, 5), (2, 6, 24, 24), 2),
        ((3, 32, 40), (96, 3, 3, 3), (1, 96, 30, 38), 2),
        ((1, 256), (16, 1, 7), (2, 16, 250), 1),
        ((1, 8, 12, 12), (4, 1, 3, 3, 3), (1, 4, 6, 10, 10), 3),
    ],
    ids=["grey", "colour", "signal", "volume"],
)
def test_a_page_has_the_maps_histograms_kernels_and_receptive_fields(
    image: tuple[int, ...], kernels: tuple[int, ...], maps: tuple[int, ...], fields: int
) -> None:
    found = inspected(image, kernels, maps, fields)
    runs = found.layers[0].runs
    shown = {picture.name: picture.pixels for picture in all_pictures(found)}
    named = {f"{what}-{n}-{run}" for what in ("maps", "histogram") for n in (0, 1) for run in runs}
    assert shown.keys() == {"input", "kernels", *named, *(["field-0"] if len(image) <= 3 else [])}
    if len(image) <= 3:
        drawn = np.argwhere((shown["field-0"] == FIELD_COLOUR).all(axis=-1))
        size = (drawn.max(axis=0) - drawn.min(axis=0) + 1).tolist()
        assert size == [kernels[-1] if len(image) == 3 else CURVE_HEIGHT, kernels[-1]]
    html = page(found)
    assert "What was put in: &#39;seven&#39; of digits" in html
    assert html.count("<nav") == 1
    assert 'href="#layer-0"' not in html  # a network has hundreds of layers
    assert "http" not in html.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert html.count("data:image/png") == len(shown)
    assert json.loads(json.dumps(as_json(found)))["layers"][0]["receptive_field"] == [kernels[-1]] * fields


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "image", "kernels"),
    [
        (["lenet5"], "grey.png", (6, 5, 5)),
        (["cnn1d", "--image-size", "256", "--classes", "5", "--layers", "features.*"], "signal.npy", (16, 7)),
        (["squeezenet1_1", "--image-size", "64", "--layers", "features.[0-3]*"], "colour.jpg", (64, 3, 3)),
    ],
)
def test_the_layers_of_a_grey_a_colour_image_and_a_signal_are_on_a_page_and_in_files(
    cli: Cli, words: list[str], image: str, kernels: tuple[int, ...]
) -> None:
    random = np.random.default_rng(0)
    if image == "signal.npy":
        np.save(image, random.standard_normal(256))
    else:
        size = (28, 28) if image == "grey.png" else (40, 50, 3)
        Image.fromarray(random.integers(255, size=size, dtype=np.uint8)).save(image)
    told = cli("inspect", *words, "--image", image, "--run", "ort", "--out", "shown", "--json")
    assert told.returncode == 0, told.stderr
    layers = json.loads(told.stdout)["layers"]
    assert layers[0]["operator"].startswith("conv")
    assert "float64" in layers[0]["runs"]
    assert any("ort" in layer["runs"] for layer in layers)
    assert layers[0]["receptive_field"] == list(kernels[1:])
    page = Path("shown/layers.html").read_text()
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    files = {file.name for file in Path("shown").glob("*.png")}
    assert {"input.png", "kernels.png", "maps-0-float64.png", "histogram-0-float64.png"} <= files
    assert page.count("data:image/png") == len(files)
    for file in files:
        Image.open(Path("shown") / file).load()


@pytest.mark.slow
def test_the_kernels_of_an_onnx_file_and_the_maps_of_its_int8_are_shown(cli: Cli) -> None:
    assert cli("export", "lenet5", "--out", "lenet.onnx").returncode == 0
    told = cli("inspect", "lenet.onnx", "--run", "ort/int8", "--out", "shown", "--json")
    assert told.returncode == 0, told.stderr
    layers = json.loads(told.stdout)["layers"]
    assert any("ort/int8" in layer["runs"] for layer in layers)
    assert (Path("shown") / "kernels.png").is_file()


@pytest.mark.slow
def test_the_test_images_of_a_data_set_are_put_in(cli: Cli) -> None:
    write_images(Path("folder"), "cat", "dog", count=20)
    told = cli(
        "inspect", "simple_cnn", "--classes", "2", "--data", "folder", "--batch", "5", "--out", "shown", "--json"
    )
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    assert found["images"] == 5
    assert found["image"] in ("'cat' of folder", "'dog' of folder")
    counted = sum(found["layers"][0]["runs"]["float64"]["histogram"])
    assert counted == 5 * np.prod(found["layers"][0]["shape"][1:])
    assert found["image"].replace("'", "&#39;") in Path("shown/layers.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mlp"], "error: mlp: none of its layers has feature maps; expected outputs (N, C, H, W) or (N, C, L)"),
        (["lenet5", "--layers", "x*"], "error: --layers: no layer of lenet5 with feature maps matches 'x*'; they are"),
        (["lenet5", "--image", "text.png"], "error: text.png: expected a picture that Pillow reads"),
        (["lenet5", "--data", "signals"], "error: expected a model for images of at least 1x512, or of more channels;"),
        (["lenet5", "--memory", "1MB", "--batch", "64"], "error: --memory: expected at least"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(cli: Cli, words: list[str], said: str) -> None:
    Path("text.png").write_text("no picture")
    told = cli("inspect", *words)
    assert told.returncode == 2, told.stderr
    assert told.stderr.startswith(said), told.stderr
    assert len(told.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--image", "none.png"], "error: --image: 'none.png': there is no such file"),
        (["--image", "none.png", "--data", "shapes"], "error: --image: is one image, instead of --data and --batch;"),
        (["--data", "none"], "error: none: expected a data set; there is no such folder;"),
        (["--memory", "much"], "error: --memory: expected an amount of memory such as 500MB or 2GB; got 'much'"),
        (["--out", "file/shown"], "error: --out: expected a folder that can be written; got file/shown: "),
        (["--run", "folded"], "error: --run: expected one of eager, compile, ort, or an ONNX file;"),
    ],
)
def test_options_that_cannot_be_meant_are_one_sentence(cli: Cli, words: list[str], said: str) -> None:
    Path("file").touch()
    told = cli("inspect", "lenet5", *words)
    assert told.returncode == 2
    assert told.stderr.startswith(said), told.stderr
    assert len(told.stderr.splitlines()) == 1

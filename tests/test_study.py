"""Studies: claims about networks, tested on training runs; with results by hand, scripted workers, and real ones."""

import json
import math
from pathlib import Path
from statistics import stdev

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from cnnbench.analysis import study as analysis
from cnnbench.analysis.study import Value, estimate, judge
from cnnbench.errors import InputError, SuiteError
from cnnbench.records import dataset
from cnnbench.records.messages import Failure
from cnnbench.records.study_result import StudyResult, Tried, read_results
from cnnbench.records.task_messages import Epoch, Evaluated, Examine, Examined, TrainingStarted
from cnnbench.records.training_history import EpochResult
from cnnbench.report import study as report
from cnnbench.runner.tasks.study import digest_of, left_s
from cnnbench.suite.case import ModelSpec
from cnnbench.suite.load import bundled_suites
from cnnbench.suite.study import Study, load_study, parse_measure
from cnnbench.worker import examination, variants
from cnnbench.worker.data import shapes
from cnnbench.worker.data.read import read
from tests import scripted
from tests.conftest import ROOT, Cli
from tests.read_page import ReadPage
from tests.scripted import Says

NOTE = ROOT / "suites" / "note.yaml"
TINY = """
name: tiny
data: shapes
images: 100
epochs: 1
seeds: [0, 1]
under: {shift: [0, 4], fgsm: [2]}
tried_images: 20
arms:
  digits: {model: mlp, epochs: 0}
  mlp: {model: "cnnbench.worker.variants:mlp", image_size: 32, channels: 3}
  heads: {model: "cnnbench.worker.variants:stack", image_size: 32, channels: 3, images: 50,
          batch: 25, line: alone}
  some: {model: "cnnbench.worker.variants:resnet", image_size: 32, channels: 3, classes: [disc, bar, star]}
  others: {model: "cnnbench.worker.variants:resnet", image_size: 32, channels: 3, classes: [ring, angle], images: 64,
           start: some, trainable: head}
claims:
  - {text: One is more accurate., more: accuracy, of: heads, than: mlp}
  - {text: It is smaller., more: parameters, of: digits, than: heads}
  - {text: It is robust., more: consistency under shift 4, of: heads, than: 0.5}
"""


def written(folder: Path, text: str = TINY) -> Path:
    file = folder / "tiny.yaml"
    file.write_text(text)
    return file


def result(study: Study, arm: str, seed: int, accuracy: float, **more: object) -> StudyResult:
    usual = {"parameters": 1000, "gradients": {"a": 0.2, "b": 0.4}, "accuracy": {"eager": accuracy, "ort": accuracy}}
    about = {
        "arm": arm,
        "seed": seed,
        "digest": digest_of(study, arm),
        "test_images": 2000,
        "epochs": 1,
        "seconds": 1.5,
    }
    return StudyResult.model_validate({**usual, **about, **more})


def test_what_is_left_takes_as_long_as_with_another_seed_or_as_the_mean_of_all(home: Path) -> None:
    study = load_study(written(home))
    walls = {"mlp": 20.0, "heads": 60.0}
    done = [result(study, arm, 0, 0.5, wall_s=s) for arm, s in walls.items()]
    done.append(result(study, "digits", 0, 0.5, wall_s=1.0, epochs=0))
    assert left_s([("mlp", 1), ("heads", 1), ("some", 0)], done, 2) == (20 + 60 + 40) / 2
    assert left_s([("mlp", 1)], [], 2) == 0


# --- what is claimed ---


def test_the_note_is_a_study_whose_networks_are_built_and_no_suite() -> None:
    short, full = load_study(NOTE), load_study(NOTE, "full")
    assert "note" not in bundled_suites()
    assert (short.form, full.form) == ("short", "full")
    assert full.images > short.images
    assert full.arms.keys() > short.arms.keys()
    assert len(full.claims) > len(short.claims)
    for name, arm in full.arms.items():
        assert full.spec(name, 1).seed == 1
        assert not arm.classes or set(arm.classes) < set(shapes.CLASSES)
        module, _, found = arm.model.partition(":")
        if found:
            assert module == "cnnbench.worker.variants"
            options = {"classes": 4} if arm.classes else {}
            images = torch.zeros(2, *variants.IMAGE)
            shape = getattr(variants, found)(**options).eval()(images).shape
            assert shape == (2, 4 if arm.classes else variants.CLASSES)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("of: heads, than: mlp", "of: heads, than: cnn", "expected one of the arms; got 'cnn'"),
        ("more: accuracy,", "more: speed,", r":\d+: claims\[0\].more: .*expected parameters, gradient, accuracy"),
        ("shift 4, of", "shift 5, of", "expected an amount that stands in `under`"),
        ("data: shapes", "data: digits", "`under` needs the data set shapes"),
        ("images: 100", "images: none", r":4: images: "),
        ("mlp, epochs: 0", "mpl, epochs: 0", r"arms.digits.model: .*mpl"),
        ("seeds: [0, 1]", "seeds: []", r":6: seeds: "),
        ("start: some", "start: others", "arm 'others': expected `start` to be an arm that starts anew; got 'others'"),
        ("seeds: [0, 1]", "full: 3\nseeds: [0]", "a mapping `full`"),
    ],
)
def test_a_mistake_in_a_study_is_told_in_one_sentence(tmp_path: Path, before: str, after: str, message: str) -> None:
    assert before in TINY
    with pytest.raises(SuiteError, match=message) as error:
        load_study(written(tmp_path, TINY.replace(before, after)))
    assert str(error.value).startswith(f"{tmp_path}/tiny.yaml")
    assert "\n" not in str(error.value)


def test_a_measure_is_written_one_way() -> None:
    for text in ("accuracy", "parameters", "consistency under shift -4", "accuracy under scale 1.5"):
        assert parse_measure(text).text == text
    with pytest.raises(ValueError, match="expected parameters"):
        parse_measure("consistency")


# --- what is concluded ---


def test_an_interval_has_the_seeds_and_the_test_images() -> None:
    """With three seeds Student's quantile is 4.303; a share of 0.9 of 100 images has a standard error of 0.03."""
    shares = (0.88, 0.9, 0.92)
    seeds = 4.3027 * stdev(shares) / math.sqrt(3)
    of = estimate([Value(each) for each in shares])
    assert of.value == pytest.approx(0.9)
    assert of.high == pytest.approx(0.9 + seeds, abs=1e-4)
    of = estimate([Value(each, 0.03**2) for each in shares])
    assert of.low == pytest.approx(0.9 - math.hypot(seeds, 1.96 * 0.03), abs=1e-4)
    assert estimate([Value(0.9)]).low is None


@pytest.mark.parametrize(
    ("heads", "verdict"),
    [((0.9, 0.91), "holds"), ((0.3, 0.31), "does not hold"), ((0.6, 0.61), "undecided"), ((0.4, 0.9), "undecided")],
)
def test_a_claim_holds_if_all_of_the_interval_does(tmp_path: Path, heads: tuple[float, float], verdict: str) -> None:
    study = load_study(written(tmp_path))
    results = {("mlp", seed): result(study, "mlp", seed, 0.6 + 0.01 * seed) for seed in (0, 1)}
    results |= {("heads", seed): result(study, "heads", seed, heads[seed]) for seed in (0, 1)}
    first = judge(study, results)[0]
    assert first.verdict == verdict
    assert first.difference.value == pytest.approx(sum(heads) / 2 - 0.605)


def test_numbers_of_parameters_are_exact_and_a_number_may_stand_for_an_arm(tmp_path: Path) -> None:
    study = load_study(written(tmp_path))
    moved = Tried(what="shift", amount=4, runtime="ort", images=1000, correct=100, same=800)
    results = {
        **{("digits", seed): result(study, "digits", seed, 0, parameters=500) for seed in (0, 1)},
        **{("heads", seed): result(study, "heads", seed, 0.9, tried=[moved]) for seed in (0, 1)},
    }
    smaller, robust = judge(study, results)
    assert (smaller.verdict, smaller.difference.low, smaller.difference.value) == ("does not hold", -500, -500)
    assert (robust.verdict, robust.more, robust.than) == ("holds", 0.8, 0.5)


def test_a_gradient_is_that_of_the_first_layer_relative_to_the_last(tmp_path: Path) -> None:
    found = analysis.value_of(result(load_study(written(tmp_path)), "mlp", 0, 0.5), parse_measure("gradient"), "ort")
    assert found == Value(0.5)


@pytest.mark.parametrize(
    ("measure", "value"),
    [
        ("parameters", Value(1000)),
        ("accuracy", Value(0.9, 0.9 * 0.1 / 2000)),
        ("accuracy under shift 4", Value(0.1, 0.1 * 0.9 / 1000)),
        ("consistency under shift 4", Value(0.8, 0.8 * 0.2 / 1000)),
        ("consistency under shift 0", None),
        ("gradient", None),
    ],
)
def test_a_share_of_test_images_varies_by_which_they_are(tmp_path: Path, measure: str, value: Value | None) -> None:
    moved = Tried(what="shift", amount=4, runtime="ort", images=1000, correct=100, same=800)
    of = result(load_study(written(tmp_path)), "mlp", 0, 0.9, tried=[moved], gradients={"a": 0.2, "b": 0.0})
    assert analysis.value_of(of, parse_measure(measure), "ort") == (value and pytest.approx(value))
    if measure != "parameters":
        assert analysis.value_of(of, parse_measure(measure), "compile") is None


def test_the_page_has_each_claim_with_its_numbers_and_verdict_and_charts(tmp_path: Path) -> None:
    study = load_study(written(tmp_path))
    tried = [
        Tried(what="shift", amount=amount, runtime="ort", images=1000, correct=900, same=1000) for amount in (0, 4)
    ]
    results = {
        (arm, seed): result(study, arm, seed, share, parameters=size, tried=tried)
        for arm, share, size in (("digits", 0.5, 101_770), ("mlp", 0.6, 394_634), ("heads", 0.9, 24_234))
        for seed in (0, 1)
    }
    text = report.page(study, results)
    read = ReadPage(text)
    claims = [[str(cell.text) for cell in row] for row in read.tables["claims"].rows]
    assert [row[3] for row in claims] == ["holds", "holds", "holds"]
    assert claims[1][4] == "parameters: digits 101,770, heads 24,234; difference 77,536, exactly"
    assert claims[0][4].startswith("accuracy: heads 90.0 %, mlp 60.0 %; difference 30.0 % [")
    assert all(
        title in text for title in ("Accuracy under shift", "Differences", "Accuracy by number", "Test accuracy")
    )
    assert next(iter(report.text(study, results))).startswith("holds: One is more accurate. accuracy: heads")


# --- what is run ---


def script(*, examined: Examined | None = None) -> list[Says]:
    epoch = EpochResult(epoch=1, seconds=2.0, loss=0.5, rate=0.001, accuracy={"eager": 0.7, "ort": 0.7})
    seen = examined or Examined(parameters=7, gradients={"a": 0.1}, tried=[])
    return [
        Says("start_training", TrainingStarted(train_images=100, test_images=2000, steps_per_epoch=1, parameters=7)),
        Says("advance", Epoch(steps=1, loss=0.5, seconds=0.1, over=True)),
        Says("evaluate", Evaluated(result=epoch, over=False)),
        Says("examine", seen),
    ]


def test_a_study_trains_what_it_lacks_and_goes_on(cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted.use(monkeypatch, home, *script())
    file = written(home)
    done = cli("study", str(file), "--out", "out")
    assert done.returncode == 0, done.stderr
    assert "10 of 10, about 0 s left: " in done.stdout
    results, faults = read_results(home / "out")
    assert not faults
    arms = ("digits", "mlp", "heads", "some", "others")
    assert {(each.arm, each.seed) for each in results} == {(a, s) for a in arms for s in (0, 1)}
    by_arm = {each.arm: each for each in results}
    assert by_arm["digits"].parameters == 784 * 128 + 128 + 1280 + 10, "the closed form's"
    assert (by_arm["mlp"].parameters, by_arm["mlp"].accuracy["ort"], by_arm["mlp"].seconds) == (7, 0.7, 2.0)
    assert "undecided: One is more accurate." in done.stdout
    assert (home / "out" / "study.html").exists()
    file.write_text(TINY.replace("images: 50", "images: 60"))
    done = cli("study", str(file), "--out", "out")
    assert done.returncode == 0, done.stderr
    assert [each.arm for each in read_results(home / "out")[0][10:]] == ["heads", "heads"]
    done = cli("study", str(file), "--out", "out", "--json")
    assert len(json.loads(done.stdout)) == len(read_results(home / "out")[0]) - 2, "nothing is done again"


def test_a_run_that_fails_ends_a_study_and_what_is_finished_stays(
    cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Says("start_training", Failure(failure="--batch: expected at most 50", is_user_error=True), images=50)
    scripted.use(monkeypatch, home, wrong, *script())
    done = cli("study", str(written(home)), "--out", "out")
    assert done.returncode == 2
    assert done.stderr.strip() == "error: heads, seed 0: --batch: expected at most 50"


@pytest.mark.slow
def test_networks_are_trained_and_examined_by_real_workers(cli: Cli, home: Path) -> None:
    done = cli("study", str(written(home, TINY.replace("seeds: [0, 1]", "seeds: [0]"))), "--out", "out")
    assert done.returncode == 0, done.stderr
    by_arm = {each.arm: each for each in read_results(home / "out")[0]}
    heads = by_arm["heads"]
    assert heads.parameters == 3 * 9 * 8 + 8 + 8 * 9 * 16 + 16 + 16 * 9 * 32 + 32 + 512 * 128 + 128 + 1280 + 10
    assert heads.accuracy["eager"] == pytest.approx(heads.accuracy["ort"], abs=0.01)
    assert {(each.what, each.amount) for each in heads.tried} == {("shift", 0), ("shift", 4), ("fgsm", 0), ("fgsm", 2)}
    for each in heads.tried:
        assert each.images == 20
        assert each.same == 20 or each.amount
    assert not by_arm["mlp"].tried, "no claim asks for it"
    before, after = (load_file(home / "out" / f"{arm}-0.safetensors") for arm in ("some", "others"))
    assert {name for name in before if not np.array_equal(before[name], after[name])} == {"fc.weight", "fc.bias"}
    assert (before["fc.bias"].shape, after["fc.bias"].shape) == ((3,), (2,))


def test_gradients_are_autograds_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "TRAIN_IMAGES", 70)
    monkeypatch.setattr(shapes, "TEST_IMAGES", 10)
    spec = ModelSpec(model="cnnbench.worker.variants:mlp", image_size=(32, 32), channels=3)
    before = torch.get_num_threads()
    request = Examine(spec=spec, data=dataset.find("shapes"), weights=None, under={}, images=5, threads=1)
    found = examination.examine(request)
    torch.set_num_threads(before)
    assert list(found.gradients) == ["fc1", "fc2"]
    assert found.parameters == 3072 * 128 + 128 + 1280 + 10
    assert all(0 < norm < 10 for norm in found.gradients.values())
    assert found.tried == []


@pytest.mark.parametrize("steps", [1, examination.PGD_STEPS])
def test_images_under_attack_differ_by_no_more_than_was_asked_and_are_worse(
    monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    monkeypatch.setattr(shapes, "TRAIN_IMAGES", 70)
    monkeypatch.setattr(shapes, "TEST_IMAGES", 10)
    data = read(dataset.find("shapes"), variants.IMAGE, 10)
    torch.manual_seed(0)
    module = variants.stack().eval()
    images, labels = data.prepare(data.test.images), data.test.labels
    attacked = examination._attacked(module, images, labels, 4.0, data, steps)
    deviation = np.array(data.prepare.scaling.deviation).reshape(-1, 1, 1)
    mean = np.array(data.prepare.scaling.mean).reshape(-1, 1, 1)
    stored = attacked * deviation + mean
    difference = np.abs(stored - data.test.images)
    assert difference.max() == pytest.approx(4, abs=1e-3)
    assert -1e-3 < stored.min() <= stored.max() < 255 + 1e-3

    def loss(x: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:
        with torch.no_grad():
            return float(torch.nn.functional.cross_entropy(module(torch.from_numpy(x)), torch.from_numpy(labels)))

    assert loss(attacked) > loss(images)


def test_images_with_noise_and_blurred_ones_keep_their_brightness_and_lose_detail() -> None:
    image = shapes.draw(next(iter(shapes.drawings(1, 0))))[None]
    assert examination._degraded(image, "shift", 5.0) is image
    noisy = examination._degraded(np.full((1, 3, 64, 64), 128.0), "noise", 20.0)
    assert (noisy.mean(), noisy.std()) == (pytest.approx(128, abs=1), pytest.approx(20, abs=1))
    blurred = examination._degraded(image, "blur", 2.0)
    assert blurred.mean((0, 2, 3)) == pytest.approx(image.mean((0, 2, 3)), abs=2)
    assert np.abs(np.diff(blurred)).mean() < np.abs(np.diff(image.astype(float))).mean() / 3


def test_some_classes_of_a_data_set_are_numbered_anew_in_the_given_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "TRAIN_IMAGES", 40)
    monkeypatch.setattr(shapes, "TEST_IMAGES", 20)
    whole = shapes.read()
    data = read(dataset.find("shapes").model_copy(update={"classes": ("bar", "disc")}), variants.IMAGE, 2)
    assert data.classes == ["bar", "disc"]
    assert [len(data.train.labels), len(data.test.labels)] == [8, 4]
    bar = whole.train.images[whole.train.labels == shapes.CLASSES.index("bar")]
    assert np.array_equal(data.train.images[data.train.labels == 0], bar)
    with pytest.raises(InputError, match=r"shapes: expected some of its classes, disc, .*; got 'heptagon'"):
        read(dataset.find("shapes").model_copy(update={"classes": ("heptagon",)}), variants.IMAGE, 2)

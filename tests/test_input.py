"""How fast stored images become batches: measured on a few, told beside training steps, and asked for by a suite."""

import base64
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cnnbench.analysis.input_pipeline import bindings, per_second, stage_time
from cnnbench.analysis.stats import Estimate
from cnnbench.errors import InputError, SuiteError
from cnnbench.records import dataset, messages
from cnnbench.records.dataset import DataSet
from cnnbench.records.input_times import Draw, InputTimes, Stage, Supply, read_input, write_input
from cnnbench.records.run_folder import Run, read_run
from cnnbench.records.task_messages import MeasureInput
from cnnbench.report.html import html
from cnnbench.report.sections import run_page
from cnnbench.report.tables import run_tables
from cnnbench.suite.input_plan import InputPlan
from cnnbench.suite.load import load_suite
from cnnbench.worker.data import pipeline, shapes
from cnnbench.worker.data.read import READERS
from cnnbench.worker.data.transforms import Transform
from tests import scripted
from tests.conftest import Cli, write_suite
from tests.records import ENVIRONMENT, case, record
from tests.scripted import Says, lenet
from tests.test_data import write_images

PLAN = InputPlan(data="shapes", transforms=["RandomCrop(28)", "Grayscale()"], workers=[0, 2], batch=4)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of one batch, of a small data set."""
    for name in ("STAGE_BLOCK_S", "SUPPLY_BLOCK_S"):
        monkeypatch.setattr(pipeline, name, 0.0)
    monkeypatch.setattr(shapes, "TRAIN_IMAGES", 20)
    monkeypatch.setattr(shapes, "TEST_IMAGES", 10)


def asked(plan: InputPlan) -> MeasureInput:
    return MeasureInput(plan=plan, data=dataset.find(plan.data), device="cpu", threads=1)


@pytest.mark.usefixtures("quick")
def test_each_stage_and_each_number_of_workers_is_measured_and_one_image_is_drawn_eight_times() -> None:
    before = torch.get_num_threads()
    found = pipeline.measure(asked(PLAN))
    torch.set_num_threads(before)
    names = ["decode", "RandomCrop(28)", "Grayscale()", "to a tensor", "batch", "copy"]
    assert [stage.name for stage in found.stages] == names
    assert [supply.workers for supply in found.supplies] == [0, 2]
    seconds = [*(stage.seconds for stage in found.stages), *(supply.seconds for supply in found.supplies)]
    assert {len(each) for each in seconds} == {pipeline.BLOCKS}
    assert (found.shape, found.images) == ((1, 28, 28), 20)
    drawn = [np.frombuffer(draw.content, np.uint8).reshape(28, 28, 3) for draw in found.draws]
    stored = READERS["shapes"](DataSet(kind="shapes"), ()).train.images[0]
    grey = np.asarray(Image.fromarray(stored.transpose(1, 2, 0)).convert("L"))
    crops = [grey[y : y + 28, x : x + 28] for y in range(5) for x in range(5)]
    assert all(any((draw[..., 0] == crop).all() for crop in crops) for draw in drawn)
    assert len({draw.tobytes() for draw in drawn}) > 1


@pytest.mark.usefixtures("quick")
def test_the_time_of_a_slow_stage_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:

    def slow(image: Image.Image) -> Image.Image:
        time.sleep(0.004)
        return image

    monkeypatch.setattr(pipeline, "make", lambda texts: [Transform("slow", slow)])
    before = torch.get_num_threads()
    found = pipeline.measure(asked(PLAN.model_copy(update={"workers": [0]})))
    torch.set_num_threads(before)
    seconds = {stage.name: min(stage.seconds) for stage in found.stages}
    assert 0.004 <= seconds.pop("slow") < 0.02
    assert max(seconds.values()) < 0.004
    assert 0.004 <= min(found.supplies[0].seconds) < 0.02


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        (["RandomCrop(99)"], r"transform RandomCrop\(99\): cannot be applied to a picture of 9x7, RGB"),
        ([], "expected images of one size behind them; got 3x.*RandomResizedCrop"),
    ],
)
def test_transforms_that_do_not_fit_a_folder_of_images_are_told(
    tmp_path: Path, transforms: list[str], message: str
) -> None:
    write_images(tmp_path, "cat", size=(7, 9), count=10)
    write_images(tmp_path, "dog", size=(7, 9) if transforms else (9, 7), count=10)
    plan = InputPlan(data=str(tmp_path), transforms=transforms, workers=[0], batch=8)
    with pytest.raises(InputError, match=message):
        pipeline.measure(asked(plan))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_cannot_be_read_is_told_by_name_by_a_worker_too(tmp_path: Path, workers: int) -> None:
    write_images(tmp_path, "cat", count=3)
    images = pipeline.Images(DataSet(kind="images", folder=str(tmp_path)), [])
    assert len(images) == 3
    Path(images.files[1]).write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"^\S*1\.png: cannot be read as an image"):
        pipeline._supply(images, 3, workers, torch.device("cpu"))


def test_a_batch_is_of_floats_from_0_to_1() -> None:
    images = [torch.full((3, 2, 2), 51, dtype=torch.uint8)] * 2
    batch = pipeline.batched(images)
    assert isinstance(batch, torch.Tensor)
    torch.testing.assert_close(batch, torch.full((2, 3, 2, 2), 0.2))


# --- beside training steps ---


def times(*per_second: float, workers: tuple[int, ...] = (0, 1, 2)) -> InputTimes:
    """An input that gives so many images per second by workers, without any noise."""
    return InputTimes(
        plan=PLAN,
        device="cpu",
        images=20,
        shape=(1, 28, 28),
        started="2026-01-01T00:00:00+00:00",
        stages=[Stage(name="decode", seconds=[1e-5] * 7), Stage(name="batch", seconds=[3e-5] * 7)],
        supplies=[
            Supply(workers=count, seconds=[1 / rate] * 7) for count, rate in zip(workers, per_second, strict=True)
        ],
        draws=[Draw(height=2, width=2, pixels=base64.b64encode(bytes(12)).decode())],
    )


def run_of(folder: Path, input_times: InputTimes, images_per_s: float) -> Run:
    training = case("eager", "training", batch=8)
    found = record(training, [8 / images_per_s] * 7)
    return Run(folder, "s", "?", ENVIRONMENT, {found.id: found}, input=input_times)


@pytest.mark.parametrize(
    ("input_times", "images_per_s", "sentence"),
    [
        (times(1840, 3000, 5000), 92, "the model binds: it takes 92.0 images/s of 1,840 (without workers)."),
        (times(50, 80, 160), 92, "the model binds: it takes 92.0 images/s of 160 (2 workers)."),
        (
            times(60, 80, 160),
            800,
            "the input binds: 2 workers give 160 images/s, and the model takes 800; 10 are needed, if each gives as "
            "much as one does.",
        ),
        (times(60, 80, 160), 160, "the model and its input are as fast as each other within their intervals: "),
    ],
)
def test_one_sentence_says_which_binds(
    tmp_path: Path, input_times: InputTimes, images_per_s: float, sentence: str
) -> None:
    found = run_of(tmp_path, input_times, images_per_s)
    table = next(table for table in run_tables(found) if table.name == "input_workers")
    assert len(table.notes) == 1
    assert table.notes[0].startswith(f"lenet5, eager/cpu, batch 8: {sentence}")


@pytest.mark.parametrize(
    ("input_times", "images_per_s", "workers", "gives", "binds", "needed"),
    [
        (times(160, 60, 80, workers=(2, 0, 1)), 92, 2, 160, "model", None),
        (times(100, 120, 160), 92, 0, 100, "model", None),
        (times(60, 170, 160), 800, 1, 170, "input", 5),
        (times(60, workers=(0,)), 800, 0, 60, "input", 14),
        (times(100, 150, workers=(2, 4)), 800, 4, 150, "input", 16),
    ],
)
def test_the_fewest_workers_that_suffice_are_told_or_how_many_would(
    tmp_path: Path,
    input_times: InputTimes,
    images_per_s: float,
    workers: int,
    gives: float,
    binds: str,
    needed: int | None,
) -> None:
    (found,) = bindings(run_of(tmp_path, input_times, images_per_s))
    assert (found.workers, found.binds, found.needed) == (workers, binds, needed)
    assert (found.gives.value, found.takes.value) == pytest.approx((gives, images_per_s))


@pytest.mark.parametrize(("images_per_s", "binds"), [(89, "model"), (91, ""), (109, ""), (111, "input")])
def test_what_binds_is_told_where_the_intervals_do_not_overlap(tmp_path: Path, images_per_s: float, binds: str) -> None:
    """Of seven blocks the interval goes from the least to the greatest."""
    seconds = [1 / rate for rate in (90, 95, 98, 100, 102, 105, 110)]
    made = times(1, workers=(0,)).model_copy(update={"supplies": [Supply(workers=0, seconds=seconds)]})
    (found,) = bindings(run_of(tmp_path, made, images_per_s))
    assert (found.gives.low, found.gives.value, found.gives.high) == pytest.approx((90, 100, 110))
    assert found.binds == binds


def test_only_training_steps_that_were_measured_stand_beside_the_input(tmp_path: Path) -> None:
    of = run_of(tmp_path, times(60, 80, 160), 92)
    (step,) = of.records.values()
    inference = record(case("eager"), [0.01] * 7)
    wrong = step.model_copy(update={"status": "invalid", "case": step.case.model_copy(update={"runtime": "ort"})})
    some = replace(of, records={each.id: each for each in (inference, wrong, step)})
    assert [each.record for each in bindings(some)] == [step]
    assert of.input is not None
    assert (
        bindings(replace(some, input=None))
        == bindings(replace(some, input=of.input.model_copy(update={"supplies": []})))
        == []
    )
    decode, _ = of.input.stages
    assert stage_time(decode) == Estimate(1e-5, 1e-5, 1e-5)
    assert per_second(Estimate(0.5), 3) == Estimate(6.0)


def test_a_model_of_other_images_is_not_compared_and_that_is_said(tmp_path: Path) -> None:
    other = times(60, 80, 160).model_copy(update={"shape": (3, 32, 32)})
    found = run_of(tmp_path, other, 92)
    assert bindings(found) == []
    table = next(table for table in run_tables(found) if table.name == "input_workers")
    assert table.notes == ["Behind the transforms images are 3x32x32; lenet5 takes 1x28x28, and is not compared."]


def test_the_page_has_stages_workers_and_the_draws(tmp_path: Path) -> None:
    found = run_of(tmp_path, times(50, 80, 160), 92)
    text = html(run_page(found, run_tables(found)))
    assert all(f'id="{name}"' in text for name in ("input", "table-input", "table-input_workers", "picture-draws"))
    assert "The first image of shapes, drawn 1 times through RandomCrop(28), Grayscale()." in text
    assert "25 %" in text


def test_pixels_that_are_not_those_of_a_draw_are_refused(tmp_path: Path) -> None:
    write_input(tmp_path, times(1, 2, 3))
    text = (tmp_path / "input.json").read_text()
    assert read_input(tmp_path) == times(1, 2, 3)
    (tmp_path / "input.json").write_text(text.replace('"height":2', '"height":3'))
    (tmp_path / "run.json").write_text("{}")
    (line,) = read_run(tmp_path).unreadable
    assert "input.json: not read: " in line
    assert "expected the pixels of 3x2; got 12 bytes" in line


# --- a suite ---


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{data: shapes, transforms: [Lambda(print)]}", r"input.transforms\[0\]: .*expected a transform"),
        ("{transforms: []}", "input.data: expected a key 'data'; got none"),
        ("{data: shapes, workers: [1, 1]}", "input.workers: .*each number of workers once"),
        ("{data: shapes, workers: [65]}", r"input.workers\[0\]: expected a whole number of at most 64"),
        ("{data: shapes, worker: 1}", "input.worker: expected a key, one of .*did you mean 'workers'"),
    ],
)
def test_a_mistake_in_a_suites_input_is_told_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "suite.yaml"
    file.write_text(f"models: [lenet5]\ninput: {text}\n")
    with pytest.raises(SuiteError, match=message):
        load_suite(str(file))


SUITE = """
name: s
launches: 1
input:
  data: shapes
  transforms:
    - transforms.RandomCrop(28),
    - transforms.Grayscale(),
  workers: [0, 2]
  batch: 4
defaults: {workloads: [training], runtimes: [eager], batches: [4], case_budget: 0.1s}
models: [lenet5]
"""


def test_a_suite_measures_its_input_once_before_its_cases(
    cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = times(50, 80, workers=(0, 2))
    scripted.use(monkeypatch, home, Says("measure_input", said), *lenet())
    suite = write_suite(home, SUITE)
    done = cli("run", suite, "--out", "out", "--tables")
    assert done.returncode == 0, done.stderr
    assert read_input(home / "out") == said
    assert "the model binds" in done.stdout or "the input binds" in done.stdout
    failing = messages.Failure(failure="measured again", is_user_error=True)
    scripted.use(monkeypatch, home, Says("measure_input", failing), *lenet())
    done = cli("run", suite, "--out", "out", "--resume")
    assert done.returncode == 0, done.stderr
    (home / "out" / "input.json").unlink()
    done = cli("run", suite, "--out", "out", "--resume")
    assert done.returncode == 2
    assert done.stderr.strip() == "error: measured again"


def test_an_input_that_cannot_be_measured_leaves_the_run_and_is_told_on_its_page(
    cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = messages.Failure(failure="no room in /dev/shm", is_user_error=False)
    scripted.use(monkeypatch, home, Says("measure_input", broken), *lenet())
    done = cli("run", write_suite(home, SUITE), "--out", "out")
    assert done.returncode == 0, done.stderr
    assert "The input could not be measured: no room in /dev/shm" in (home / "out" / "report.html").read_text()


def test_a_data_set_that_is_not_there_ends_a_run_before_it_begins(cli: Cli, home: Path) -> None:
    done = cli("run", write_suite(home, SUITE.replace("data: shapes", "data: nowhere")), "--out", "out")
    assert done.returncode == 2
    assert "nowhere: expected a data set; there is no such folder" in done.stderr
    done = cli("run", write_suite(home, SUITE.replace("data: shapes", "data: shapes@resized")), "--out", "out")
    assert done.returncode == 2
    assert "input: data: its transforms resize and normalise; expected shapes; got shapes@resized" in done.stderr
    assert not (home / "out").exists()

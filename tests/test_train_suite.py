"""Weights that a suite's models are trained to: what a suite may say, the cache, and the command."""

import json
from pathlib import Path

import pytest

from cnnbench.errors import InputError, ModelError, SuiteError
from cnnbench.records import dataset, toolchain, trained
from cnnbench.records.run_folder import read_run
from cnnbench.runner.tasks.train_suite import check_trained
from cnnbench.suite.case import Case
from cnnbench.suite.load import bundled_suites, load_suite
from cnnbench.suite.recipe import is_trained
from tests.conftest import Cli, write_suite

SUITE = """
defaults:
  workloads: [inference]
  runtimes: [ort]
  precisions: [fp32, int8]
  batches: [1]
  data: shapes
  weights: trained
  train: {images: 100, epochs: 1}
models: [lenet5, {model: simple_cnn, train: {data: digits}, test_images: 30}]
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNBENCH_CACHE", str(tmp_path / "cache"))


def test_a_suite_names_how_its_weights_are_made_and_ids_have_a_digest_of_that(tmp_path: Path) -> None:
    suite = load_suite(write_suite(tmp_path, SUITE))
    lenet, simple = suite.trained
    assert (lenet.recipe.data, lenet.recipe.images) == ("shapes", 100)
    assert (simple.recipe.data, simple.recipe.images) == ("digits", None)
    assert [case.spec.weights for case in suite.cases[::2]] == [lenet.weights, simple.weights]
    assert is_trained(lenet.weights)
    assert not is_trained("trained.safetensors")
    assert lenet.weights != simple.weights
    case = suite.cases[0]
    assert case.id == f"lenet5/w:{lenet.weights}/inference/ort/cpu/fp32/b1"
    assert Case.from_id(case.id) == case
    again = load_suite(write_suite(tmp_path, SUITE.replace("epochs: 1", "epochs: 2"))).trained
    assert again[0].weights != lenet.weights
    assert again[1] == simple, "its own recipe"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  train: {images: 100, epochs: 1}\n", "", r"suite.yaml:8.*: expected `train` beside `weights: trained`"),
        ("epochs: 1}", "epoch: 1}", r"train.epoch: expected a key, one of .*did you mean 'epochs'"),
        ("epochs: 1}", "epochs: 0}", r"train.epochs: expected a whole number of at least 1; got 0"),
        ("  data: shapes\n", "", r"suite.yaml:7.*: expected `data` in `train`, or beside it; got none"),
    ],
)
def test_a_mistake_in_a_recipe_is_one_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in SUITE
    with pytest.raises(SuiteError, match=said):
        load_suite(write_suite(tmp_path, SUITE.replace(old, new)))


def test_a_run_says_which_command_makes_weights_that_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = load_suite(write_suite(tmp_path, SUITE))
    specs = [case.spec for case in suite.cases]
    with pytest.raises(InputError, match=r"of lenet5, simple_cnn in the cache.*`cnnbench train-suite .*suite.yaml`"):
        check_trained(suite, specs)
    lenet = suite.trained[0]
    folder = trained.folder_of(lenet.weights)
    folder.mkdir(parents=True)
    (folder / trained.WEIGHTS).write_bytes(b"half")
    assert trained.read(lenet) is None, "no finished run"
    assert trained.write(lenet, 0.5, 2.0) == trained.read(lenet)
    assert trained.weights_file(specs[0]) == folder / trained.WEIGHTS
    assert toolchain.source_digest(specs[0]) != toolchain.source_digest(specs[-1]), "of the file's content"
    check_trained(suite, specs[:2])
    with pytest.raises(InputError, match="of simple_cnn in"):
        check_trained(suite, specs)
    monkeypatch.setattr(dataset, "fingerprint", lambda source: "other files")
    assert trained.read(lenet) is None


def test_weights_that_were_never_made_are_said_to_be_where_a_model_is_built(tmp_path: Path) -> None:
    from cnnbench.worker import models
    from cnnbench.worker.weights import load_weights

    spec = load_suite(write_suite(tmp_path, SUITE)).cases[0].spec
    with pytest.raises(ModelError, match=r"there is no trained-\w+ in the cache; `cnnbench train-suite SUITE` makes"):
        load_weights(models.build(spec)[0], spec)


def test_a_suite_without_such_weights_is_told_so(home: Path, cli: Cli) -> None:
    told = cli("train-suite", write_suite(home, "models: [lenet5]\n"))
    assert (told.returncode, "expected a model with `weights: trained`; got none" in told.stderr) == (2, True)


def test_the_bundled_suite_of_precisions_trains_its_networks_and_evaluates_on_2000_images() -> None:
    suite = load_suite(str(bundled_suites()["precision"]))
    names = [each.spec.model for each in suite.trained]
    assert names == ["lenet5", "simple_cnn", "resnet_cifar", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0"]
    assert {test.images for test in suite.tests.values()} == {2000}
    assert suite.budget_s <= 900


@pytest.mark.slow
def test_a_suite_is_trained_once_and_what_was_timed_is_evaluated_with_each_draw(home: Path, cli: Cli) -> None:
    text = SUITE.replace(", {model: simple_cnn, train: {data: digits}, test_images: 30}", "")
    text = text.replace("batches: [1]", "batches: [1]\n  case_budget: 0.2s\n  test_images: 200")
    suite = write_suite(home, "name: t\nlaunches: 1\nbudget: 3m\n" + text)
    refused = cli("run", suite, "--out", "out")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert f"cnnbench train-suite {suite}" in refused.stderr
    first, second = (cli("train-suite", suite, "--json") for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert json.loads(first.stdout) == json.loads(second.stdout), "not trained again"
    weights = json.loads(first.stdout)[0]["weights"]
    assert not list(trained.folder_of(weights).glob("*.checkpoint"))
    done = cli("run", suite, "--out", "out", "--tables")
    assert done.returncode in (0, 3), done.stderr
    records = read_run(home / "out").records
    quantised = records[f"lenet5/w:{weights}/inference/ort/cpu/int8/cal:shapes/b1"].evaluation
    assert quantised is not None
    assert (quantised.images, len(quantised.draws), quantised.problem) == (200, 2, "")
    in_fp32 = records[f"lenet5/w:{weights}/inference/ort/cpu/fp32/b1"].evaluation
    assert in_fp32 is not None
    assert in_fp32.draws == []
    assert " of 3" in done.stdout

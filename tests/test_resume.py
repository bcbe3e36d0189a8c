"""Training runs that are interrupted go on where their last whole epoch ended, and come to the same weights."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from cnnbench.errors import InputError
from cnnbench.records import training_history
from cnnbench.records.dataset import find
from cnnbench.records.task_messages import StartTraining
from cnnbench.suite.case import ModelSpec
from cnnbench.suite.optimizer import Optimizer
from cnnbench.suite.schedule import Schedule
from cnnbench.worker.reference.parity import Array
from cnnbench.worker.training_run import TrainingRun
from tests.conftest import Cli
from tests.test_train import idx, stripes

__all__ = ["stripes"]


def plan(stripes: Path, out: str = "w.safetensors", **given: Any) -> StartTraining:
    """A run of LeNet, three epochs of 20 steps."""
    usual: dict[str, object] = {
        "spec": ModelSpec(model="lenet5", image_size=(28, 28), classes=10),
        "runtime": "ort",
        "data": find(str(stripes)),
        "batch": 32,
        "optimizer": Optimizer(name="adam"),
        "rate": 0.002,
        "threads": torch.get_num_threads(),
        "epochs": 3,
        "out": str(stripes / out),
    }
    return StartTraining.model_validate({**usual, **given})


def epoch(run: TrainingRun) -> None:
    while not run.advance(60.0).over:
        pass
    run.evaluate()


def test_a_run_that_is_killed_goes_on_to_the_same_bits_dropout_included(stripes: Path, cli: Cli) -> None:
    def words(name: str) -> list[str]:
        recipe = ["--epochs", "3", "--batch", "8", "--optimizer", "adam", "--lr", "0.001", "--schedule", "cosine"]
        return ["train", "simple_cnn", "--data", str(stripes), *recipe, "--out", str(stripes / f"{name}.safetensors")]

    whole = cli(*words("whole"), "--json")
    assert whole.returncode == 0, whole.stderr
    with subprocess.Popen([sys.executable, "-m", "cnnbench", *words("killed")], start_new_session=True) as process:
        end = time.monotonic() + 120
        while not (stripes / "killed.checkpoint").exists() and time.monotonic() < end:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
    history = training_history.read(stripes / "killed.history.jsonl")
    assert [each.epoch for each in history.epochs] == [1]
    resumed = cli(*words("killed"), "--json", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    weights, expected = (load_file(stripes / f"{name}.safetensors") for name in ("killed", "whole"))
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        assert np.array_equal(weights[name], tensor), name
    epochs = [json.loads(done.stdout)["epochs"] for done in (whole, resumed)]
    assert [len(each) for each in epochs] == [3, 3]
    for one, other in zip(*epochs, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


@pytest.mark.parametrize("optimizer", [Optimizer(momentum=0.9), Optimizer(name="adam")], ids=["momentum", "adam"])
@pytest.mark.parametrize("runtime", ["eager", "ort"])
def test_each_runtime_goes_on_from_the_middle_of_an_epoch(stripes: Path, runtime: str, optimizer: Optimizer) -> None:
    def started(name: str, *, resume: bool = False) -> TrainingRun:
        given: dict[str, Any] = {"runtime": runtime, "optimizer": optimizer, "resume": resume, "rate": 0.002}
        return TrainingRun(plan(stripes, name, **given, schedule=Schedule(name="step", every=1, warmup=0.5)))

    whole, cut = started("whole.safetensors"), started("cut.safetensors")
    for run in (whole, cut):
        epoch(run)
    cut.advance(0.0)  # one step of the second epoch
    resumed = started("cut.safetensors", resume=True)
    assert resumed.started().done == cut.state.history
    for run in (whole, resumed):
        epoch(run)
        epoch(run)
    for name, value in whole.trainer.values().items():
        assert np.array_equal(value, resumed.trainer.values()[name]), name


def test_a_run_without_a_checkpoint_begins_anew(stripes: Path) -> None:
    assert TrainingRun(plan(stripes, resume=True)).started().done == []


def test_a_checkpoint_of_another_run_is_refused_in_one_sentence(stripes: Path) -> None:
    epoch(TrainingRun(plan(stripes)))
    other = ModelSpec(model="lenet5", image_size=(28, 28), classes=11)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"batch": 16}, r"w\.checkpoint: is of another run, with batch 32, not 16; give what that run was given, or "),
        ({"optimizer": Optimizer()}, "with optimizer name adam, not sgd"),
        ({"spec": other}, "with spec classes 10, not 11"),
        ({"runtime": "eager"}, "with runtime ort, not eager"),
        ({"schedule": Schedule(name="cosine")}, "epochs None, not 3|schedule name constant, not cosine"),
    ]
    for given, message in cases:
        with pytest.raises(InputError, match=message):
            TrainingRun(plan(stripes, resume=True, **given))
    assert TrainingRun(plan(stripes, resume=True, epochs=5)).epoch == 1, "a constant rate has no last epoch"
    labels = stripes / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte"
    labels.write_bytes(idx(np.zeros(640, np.uint8)))
    with pytest.raises(InputError, match="is of another run, with other data"):
        TrainingRun(plan(stripes, resume=True))


def test_a_checkpoint_that_is_none_is_refused(stripes: Path) -> None:
    (stripes / "w.checkpoint").write_bytes(b"nothing")
    with pytest.raises(InputError, match="expected a checkpoint that `cnnbench train` wrote"):
        TrainingRun(plan(stripes, resume=True))


def test_the_order_of_images_depends_on_seed_and_epoch_alone(stripes: Path) -> None:
    seen: list[list[int]] = []

    def orders(seed: int) -> None:
        run = TrainingRun(plan(stripes, spec=ModelSpec(model="lenet5", image_size=(28, 28), classes=10, seed=seed)))

        def train(images: Array, labels: Array) -> float:
            seen[-1] += labels.tolist()
            return 0.0

        run.trainer.train = train  # type: ignore[method-assign]
        for _ in range(2):
            seen.append([])
            epoch(run)

    for seed in (0, 0, 1):
        orders(seed)
    first, second, again, also, other, _ = seen
    assert (first, second) == (again, also)
    assert first != second
    assert first != other


def test_early_stopping_keeps_the_best_weights_and_ends_the_run(stripes: Path, cli: Cli) -> None:
    words = ["train", "lenet5", "--data", str(stripes), "--epochs", "9", "--batch", "32", "--lr", "0", "--patience"]
    done = cli(*words, "2", "--out", str(stripes / "w.safetensors"))
    assert done.returncode == 0, done.stderr
    assert "stopped after 3 epochs" in done.stdout
    history = training_history.read(stripes / "w.history.jsonl")
    assert len(history.epochs) == 3
    assert len({each.held_out for each in history.epochs}) == 1, "nothing was learned"
    again = cli(*words, "2", "--out", str(stripes / "w.safetensors"), "--resume", "--json")
    assert len(json.loads(again.stdout)["epochs"]) == 3
    none = cli(*words, "2", "--held-out", "0", "--out", str(stripes / "w.safetensors"))
    assert none.returncode == 2
    assert "--held-out: expected a share that leaves images on both sides; got 0 of 640 images" in none.stderr


def test_the_weights_on_disk_are_those_of_the_best_epoch(stripes: Path) -> None:
    run = TrainingRun(plan(stripes, patience=5))
    epoch(run)
    best = load_file(run.out)
    run.state = run.state.model_copy(update={"best": 1.0})
    epoch(run)
    assert all(np.array_equal(best[name], tensor) for name, tensor in load_file(run.out).items())
    assert run.state.stale == 1


@pytest.mark.parametrize("runtime", ["eager", "ort"])
def test_a_run_that_diverges_stops_at_its_step_and_says_what_to_change(stripes: Path, cli: Cli, runtime: str) -> None:
    words = ["--lr", "1e6", "--runtime", runtime, "--out", str(stripes / "w.safetensors")]
    done = cli("train", "lenet5", "--data", str(stripes), *words)
    assert done.returncode == 2
    assert "error: the training diverged: the loss is nan at step " in done.stderr
    assert "of epoch 1 (of 10 steps each); try a lower --lr than 1e+06 or a --warmup" in done.stderr
    assert not (stripes / "w.safetensors").exists()

"""Training runs that are interrupted go on where their last whole epoch ended, and come to the same weights."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from cnnbench.errors import InputError
from cnnbench.records import training_history
from cnnbench.records.dataset import find
from cnnbench.records.task_messages import StartTraining
from cnnbench.suite.case import ModelSpec
from cnnbench.suite.optimizer import Optimizer
from cnnbench.suite.schedule import Schedule
from cnnbench.worker import models, not_finite
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
        "threads": 1,
        "epochs": 3,
        "out": str(stripes / out),
    }
    return StartTraining.model_validate({**usual, **given})


def epoch(run: TrainingRun) -> None:
    while not run.advance(60.0).over:
        pass
    run.evaluate()


@pytest.fixture
def unevaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs end without the test images, where the accuracy does not matter: its graph takes longer than the steps."""
    monkeypatch.setattr(TrainingRun, "_accuracies", lambda run: (None, {}))


@pytest.fixture
def one_cpu() -> Iterator[None]:
    """This process and its children have one thread, as the runs in this process do."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_cpu")
def test_a_run_that_is_killed_goes_on_to_the_same_bits_dropout_included(stripes: Path, cli: Cli) -> None:
    words = ["train", "simple_cnn", "--data", str(stripes), "--epochs", "4", "--images", "320", "--batch", "32"]
    words += ["--optimizer", "adam", "--lr", "0.001", "--weight-decay", "0", "--schedule", "cosine"]
    words += ["--out", str(stripes / "w.safetensors")]
    with subprocess.Popen([sys.executable, "-m", "cnnbench", *words], start_new_session=True) as process:
        end = time.monotonic() + 120
        while not (stripes / "w.checkpoint").exists() and time.monotonic() < end:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
    assert len(training_history.read(stripes / "w.history.jsonl").epochs) in (1, 2)
    resumed = cli(*words, "--json", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    whole = TrainingRun(
        plan(
            stripes,
            "whole.safetensors",
            spec=ModelSpec(model="simple_cnn"),
            data=find(str(stripes), 320, 0),
            rate=0.001,
            epochs=4,
            schedule=Schedule(name="cosine"),
        )
    )
    for _ in range(4):
        epoch(whole)
    weights, expected = (load_file(stripes / f"{name}.safetensors") for name in ("w", "whole"))
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        assert np.array_equal(weights[name], tensor), name
    epochs = json.loads(resumed.stdout)["epochs"]
    assert [each["epoch"] for each in epochs] == [1, 2, 3, 4]
    for one, other in zip(epochs, whole.state.history, strict=True):
        assert {**one, "seconds": 0} == {**other.model_dump(), "seconds": 0, "steps": 10}


@pytest.mark.usefixtures("unevaluated")
@pytest.mark.parametrize(
    ("runtime", "optimizer"),
    [
        ("eager", Optimizer(momentum=0.9)),
        ("eager", Optimizer(name="adam")),
        ("ort", Optimizer(momentum=0.9)),
        ("ort", Optimizer(name="adam")),
    ],
    ids=["eager-momentum", "eager-adam", "ort-momentum", "ort-adam"],
)
def test_each_runtime_goes_on_where_an_epoch_ended(stripes: Path, runtime: str, optimizer: Optimizer) -> None:
    def started(name: str, *, resume: bool = False) -> TrainingRun:
        given: dict[str, Any] = {"runtime": runtime, "optimizer": optimizer, "resume": resume}
        return TrainingRun(plan(stripes, name, **given, schedule=Schedule(name="step", every=1, warmup=0.5)))

    whole = started("whole.safetensors")
    epoch(whole)
    shutil.copy(stripes / "whole.checkpoint", stripes / "cut.checkpoint")
    resumed = started("cut.safetensors", resume=True)
    assert resumed.started().done == whole.state.history
    before = {name: value.copy() for name, value in resumed.trainer.values().items()}
    for run in (whole, resumed):
        epoch(run)
        epoch(run)
    values = resumed.trainer.values()
    assert all(np.array_equal(value, values[name]) for name, value in whole.trainer.values().items())
    assert not any(np.array_equal(values[name], before[name]) for name in resumed.module.state_dict())


def test_a_run_without_a_checkpoint_begins_anew(stripes: Path) -> None:
    assert TrainingRun(plan(stripes, runtime="eager", resume=True)).started().done == []


@pytest.mark.usefixtures("unevaluated")
def test_a_checkpoint_of_another_run_is_refused_in_one_sentence(stripes: Path) -> None:
    epoch(TrainingRun(plan(stripes, runtime="eager")))
    other = ModelSpec(model="lenet5", image_size=(28, 28), classes=11)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"batch": 16}, r"w\.checkpoint: is of another run, with batch 32, not 16; give what that run was given, or "),
        ({"optimizer": Optimizer()}, "with optimizer name adam, not sgd"),
        ({"spec": other}, "with spec classes 10, not 11"),
        ({"runtime": "ort"}, "with runtime eager, not ort"),
        ({"schedule": Schedule(name="cosine")}, "epochs None, not 3"),
    ]
    for given, message in cases:
        with pytest.raises(InputError, match=message):
            TrainingRun(plan(stripes, resume=True, **{"runtime": "eager", **given}))
    assert TrainingRun(plan(stripes, runtime="eager", resume=True, epochs=5)).epoch == 1, (
        "a constant rate has no last epoch"
    )
    labels = stripes / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte"
    labels.write_bytes(idx(np.zeros(640, np.uint8)))
    with pytest.raises(InputError, match="is of another run, with other data"):
        TrainingRun(plan(stripes, runtime="eager", resume=True))


@pytest.mark.usefixtures("unevaluated")
def test_a_run_of_images_that_are_padded_does_not_go_on_with_resized_ones(stripes: Path) -> None:
    spec = ModelSpec(model="lenet5", image_size=(32, 32), classes=10)
    padded, resized = (
        plan(stripes, spec=spec, runtime="eager", resume=True, data=find(f"{stripes}{behind}"))
        for behind in ("", "@resized")
    )
    epoch(TrainingRun(padded))
    with pytest.raises(InputError, match="is of another run, with resized None, not True"):
        TrainingRun(resized)


def test_a_checkpoint_that_is_none_is_refused(stripes: Path) -> None:
    (stripes / "w.checkpoint").write_bytes(b"nothing")
    with pytest.raises(InputError, match="expected a checkpoint that `cnnbench train` wrote"):
        TrainingRun(plan(stripes, resume=True))


@pytest.mark.usefixtures("unevaluated")
def test_the_order_of_images_depends_on_seed_and_epoch_alone(stripes: Path) -> None:
    seen: list[list[int]] = []

    def orders(seed: int) -> None:
        spec = ModelSpec(model="lenet5", image_size=(28, 28), classes=10, seed=seed)
        run = TrainingRun(plan(stripes, spec=spec, runtime="eager"))

        def train(images: Array, labels: Array) -> float:
            seen[-1] += labels.tolist()
            return 0.0

        run.trainer.train = train  # type: ignore[method-assign, assignment]
        for _ in range(2):
            seen.append([])
            epoch(run)

    for seed in (0, 0, 1):
        orders(seed)
    first, second, again, also, other, _ = seen
    assert (first, second) == (again, also)
    assert first != second
    assert first != other


@pytest.mark.slow
@pytest.mark.usefixtures("one_cpu")
def test_early_stopping_ends_the_run(stripes: Path, cli: Cli) -> None:
    words = ["--epochs", "9", "--batch", "32", "--lr", "0", "--patience", "2", "--runtime", "eager", "--seed", "3"]
    out = stripes / "w.safetensors"
    done = cli("train", "lenet5", "--data", str(stripes), *words, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "stopped after 3 epochs: no better accuracy on held-out images in 2" in done.stdout
    history = training_history.read(stripes / "w.history.jsonl")
    assert len(history.epochs) == 3
    assert len({each.held_out for each in history.epochs}) == 1, "nothing was learned"


def test_early_stopping_needs_images_on_both_sides(stripes: Path) -> None:
    with pytest.raises(InputError, match="--held-out: expected a share that leaves images on both sides; got 0 of 640"):
        TrainingRun(plan(stripes, patience=2, held_out=0.0))


def test_the_weights_on_disk_are_those_of_the_best_epoch(stripes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = TrainingRun(plan(stripes, patience=1, runtime="eager"))
    assert run.started().train_images == 576
    held_out = iter((0.5, 0.6, 0.6))
    monkeypatch.setattr(TrainingRun, "_accuracies", lambda run: (next(held_out), {}))
    epoch(run)
    first = load_file(run.out)
    epoch(run)
    best = load_file(run.out)
    assert not np.array_equal(first["conv1.weight"], best["conv1.weight"])
    assert not run.is_over
    epoch(run)
    assert all(np.array_equal(best[name], tensor) for name, tensor in load_file(run.out).items())
    assert TrainingRun(plan(stripes, patience=1, runtime="eager", resume=True)).started().over


@pytest.mark.parametrize("runtime", ["eager", "ort"])
def test_a_run_that_diverges_stops_at_its_step_and_says_where_and_what_to_change(stripes: Path, runtime: str) -> None:
    """After a first step at such a rate each weight is about 1e28, and what the second convolution adds up infinite."""
    run = TrainingRun(plan(stripes, runtime=runtime, optimizer=Optimizer(), rate=1e30))
    message = (
        r"^the training diverged: the loss is (nan|inf) at step 2 of epoch 1 \(of 20 steps each\); "
        r"conv2 \(Conv2d\) puts out numbers that are not finite; "
        r"try a lower --lr than 1e\+30 or a --warmup or a --clip$"
    )
    with pytest.raises(InputError, match=message):
        epoch(run)
    assert not run.out.exists()


@pytest.mark.parametrize("runtime", ["eager", "ort"])
def test_steps_are_repeated_from_the_last_copy_to_the_same_weights(stripes: Path, runtime: str) -> None:
    """Dropout included, so that the layer which is named is the run's own."""
    spec = ModelSpec(model="simple_cnn", image_size=(28, 28), classes=10)
    run = TrainingRun(plan(stripes, runtime=runtime, spec=spec))
    run.advance(0.0)
    run.advance(0.0)
    run._copy = None
    run.advance(0.0)
    run.advance(0.0)
    before = {name: value.copy() for name, value in run.trainer.values().items()}
    run.losses.append(float("nan"))  # a fifth step, which is not made
    assert run._where() == ""
    assert all(np.array_equal(value, before[name]) for name, value in run.trainer.values().items())
    with torch.no_grad():
        run.module.conv1.weight.fill_(float("inf"))  # type: ignore[union-attr,operator]
    assert not_finite.first_layer(run.module, torch.zeros(2, 1, 28, 28)) == "conv1.weight is not finite"


def test_weights_that_are_not_finite_are_not_written(stripes: Path) -> None:
    run = TrainingRun(plan(stripes, runtime="eager"))
    run.advance(60)
    with torch.no_grad():
        next(run.module.parameters()).view(-1)[0] = float("nan")
    with pytest.raises(InputError, match=r"diverged: conv1\.weight is not finite at step 20 of epoch 1"):
        run.evaluate()
    assert not run.out.exists()


@pytest.mark.usefixtures("unevaluated")
def test_a_head_is_trained_from_given_weights_alike_in_both_runtimes_and_the_rest_stays(stripes: Path) -> None:
    given = {name: tensor.numpy() for name, tensor in models.build(plan(stripes).spec)[0].state_dict().items()}
    given = {name: np.full_like(value, 0.01) if name == "conv1.weight" else value for name, value in given.items()}
    save_file(
        {name: value for name, value in given.items() if not name.startswith("fc3")}, stripes / "given.safetensors"
    )
    spec = plan(stripes).spec.model_copy(update={"weights": str(stripes / "given.safetensors")})
    after: dict[str, Mapping[str, Array]] = {}
    for runtime in ("eager", "ort"):
        epoch(TrainingRun(plan(stripes, spec=spec, runtime=runtime, trainable="head", epochs=1)))
        after[runtime] = load_file(stripes / "w.safetensors")
    assert {name for name in given if not np.array_equal(given[name], after["ort"][name])} == {"fc3.weight", "fc3.bias"}
    for name, tensor in after["eager"].items():
        assert np.allclose(tensor, after["ort"][name], atol=1e-4), name

"""Training a part of a model: which part that is, what it costs in closed form, and that a step does no more."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from cnnbench.analysis.roofline import case_roofline
from cnnbench.analysis.stats import Estimate
from cnnbench.analysis.transfer import Saving, savings
from cnnbench.errors import InputError, SuiteError
from cnnbench.networks import training
from cnnbench.networks.registry import ARCHITECTURES
from cnnbench.networks.trainable import first_trained, freeze, head_of, order_of
from cnnbench.records.artifact import step_files
from cnnbench.records.environment import Threads
from cnnbench.records.peaks import Peaks
from cnnbench.records.record import Record
from cnnbench.records.run_folder import Run
from cnnbench.report.transfer import sentence
from cnnbench.suite.case import Case, ModelSpec
from cnnbench.suite.load import load_suite
from cnnbench.worker import models, trainable
from cnnbench.worker.counters import module as counters
from cnnbench.worker.trainable import survey
from tests import records
from tests.conftest import Cli, write_suite
from tests.peaks import peaks
from tests.test_families import on_meta
from tests.test_layers import backward_by_torch, kept_of_module
from tests.test_training_forms import Training, may_be
from tests.test_what_trains import IMAGES as SMALL_IMAGES
from tests.test_what_trains import Net, after_a_step

HEAD_ID = "resnet18/training/ort/cpu/fp32/train:head/b8"
LAYER4_ID = "resnet18/training/eager/cpu/fp32/train:from:layer4/norm:train/b8/t2"
INNER = ("mobilenet_v3_small", "from:features.4.block.2.fc1")
"""Begins in the middle of a block, in the factors of its squeeze and excitation."""
PARTS = [("resnet18", "head"), ("resnet18", "from:layer3.0.conv2"), ("mobilenet_v2", "from:features.14"), INNER]


def frozen(module: nn.Module, part: str, *inputs: Tensor) -> Any:
    """The module with what is not of the part frozen, as a worker does it."""
    order, heads = survey(module, *inputs)
    facts = records.facts().model_copy(update={"order": order, "heads": heads})
    trainable.freeze(module, facts, part, "it")
    return module


# --- names ---


@pytest.mark.parametrize("id_", [HEAD_ID, LAYER4_ID])
def test_an_id_names_the_part_unless_it_is_all(id_: str) -> None:
    case = Case.from_id(id_)
    assert case.id == id_
    assert case.label == case.spec.label + case.part + ("/t2" if case.threads else "")
    assert "train:" not in case.model_copy(update={"trainable": "all"}).id


@pytest.mark.parametrize(
    ("id_", "reason"),
    [
        (HEAD_ID.replace("head", "tail"), "expected all, head, or from: and a module's name, such as from:layer3"),
        (HEAD_ID.replace("training", "inference"), "inference trains nothing"),
        (
            HEAD_ID.replace("head", "from:layer5"),
            r"one of conv1, bn1, layer1, layer2, layer3, layer4, fc, or one inside them; got 'layer5'",
        ),
    ],
)
def test_a_part_that_there_is_not_is_said_in_a_sentence(id_: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        Case.from_id(id_)


def test_a_suites_parts_are_measured_together_and_each_compared_with_the_same_part(tmp_path: Path) -> None:
    text = (
        "defaults: {runtimes: {inference: [eager], training: [eager, ort]}, batches: [8]}\n"
        "models: [{model: resnet18, trainable: [all, head], frozen_norm: [eval, train]}]\n"
    )
    cases = load_suite(write_suite(tmp_path, text)).cases
    parts = ["all", "head", "head/norm:train"]
    assert [(case.runtime, case.trainable) for case in cases] == [
        ("eager", "all"),
        *((runtime, part) for runtime in ("eager", "ort") for part in parts),
    ]
    trained = [case for case in cases if case.workload == "training"]
    assert len({case.group_key for case in trained}) == 1
    assert len({case.work_key for case in trained}) == 3
    assert [case.trainable for case in trained if case.is_reference] == parts


def test_one_part_needs_no_list_and_an_unknown_one_is_told_with_its_line(tmp_path: Path) -> None:
    text = "defaults: {{workloads: [training]}}\nmodels:\n  - model: resnet18\n    trainable: {}\n"
    (case,) = load_suite(write_suite(tmp_path, text.format("from:layer4"))).cases
    assert case.trainable == "from:layer4"
    for part, reason in (("from:layer9", r":4: .*one of conv1, bn1"), ("heads", r":4: .*expected all, head, or from:")):
        with pytest.raises(SuiteError, match=reason):
            load_suite(write_suite(tmp_path, text.format(part)))


def test_steps_of_parts_have_files_of_their_own() -> None:
    names = [step_files(part)[0] for part in ("all", "head", "head/norm:train", "from:layer3.0")]
    assert names == ["step.onnx", "step-head.onnx", "step-head-norm-train.onnx", "step-from-layer3.0.onnx"]


# --- which part ---


@pytest.mark.parametrize(
    "name",
    ["lenet5", "googlenet", "mobilenet_v3_small", "squeezenet1_1", "convnext_tiny", "regnet_y_400mf"]
    + [pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES],
)
def test_a_registered_networks_order_and_head_are_those_of_its_module_as_it_runs(name: str) -> None:
    network = ARCHITECTURES[name].network()
    module = on_meta(lambda: models.build(ModelSpec(model=name))[0])
    order, heads = survey(module, torch.zeros(1, *network.input_shape))
    assert (order, heads[0] if heads else None) == (order_of(network), head_of(network))


class Backwards(nn.Module):
    """Declares its layers in another order than it runs them in."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.spare = nn.Linear(4, 5), nn.Linear(4, 5)
        self.norm, self.stem = nn.BatchNorm2d(4, affine=False), nn.Conv2d(1, 4, 3)

    def forward(self, x: Tensor) -> Any:
        """Logits."""
        return self.head(self.norm(self.stem(x)).relu().mean((2, 3)))


class Auxiliary(Backwards):
    """Puts out a second head's logits too, which is run last."""

    def forward(self, x: Tensor) -> Any:
        """Logits by name."""
        y = self.norm(self.stem(x)).mean((2, 3))
        return {"out": self.head(y), "aux": self.spare(y)}


class Ensemble(Backwards):
    """Adds two heads."""

    def forward(self, x: Tensor) -> Any:
        """Logits."""
        y = self.norm(self.stem(x)).mean((2, 3))
        return self.head(y) + self.spare(y)


def test_a_users_head_and_order_are_found_by_running_it() -> None:
    image = torch.zeros(1, 1, 8, 8)
    assert survey(Backwards(), image) == (["stem", "norm", "head"], ["head"])
    assert survey(Auxiliary(), image) == (["stem", "norm", "head", "spare"], ["head", "spare"])
    assert survey(Ensemble(), image) == (["stem", "norm", "head", "spare"], [])


def test_a_head_that_is_not_certain_is_asked_for() -> None:
    with pytest.raises(InputError, match=r"not certain.* write from:NAME, such as one of stem, norm, head, spare"):
        frozen(Ensemble(), "head", torch.zeros(1, 1, 8, 8))
    assert first_trained("it", ["stem", "norm", "head"], None, "from:norm") == "norm"


def test_what_the_user_has_frozen_stays_so() -> None:
    module = Backwards()
    module.head.bias.requires_grad_(False)
    frozen(module, "head", torch.zeros(1, 1, 8, 8))
    assert [name for name, each in module.named_parameters() if each.requires_grad] == ["head.weight"]


# --- closed forms ---


def test_resnet18s_head_is_1_81_of_5_32_giga_macs() -> None:
    network = ARCHITECTURES["resnet18"].network()
    head = freeze(network, "head")
    assert training.work(network).total == 5_324_206_080
    assert training.work(head).total == 1_814_073_344 + 512 * 1000  # a forward pass, and the gradient of the weights
    assert training.saving(head, network) == pytest.approx(2.934, abs=1e-3)
    assert training.saved_bytes(head, 8) == 8 * 512 * 4  # the head's input
    assert training.step_memory(head, 8, "adam").optimizer_state == 2 * 4 * 513_000
    assert freeze(network, "from:conv1") == network
    assert freeze(network, "all") is network


@pytest.mark.parametrize(("name", "part"), [*PARTS, ("googlenet", "head"), ("googlenet", "from:inception4c")])
def test_the_backward_pass_of_a_part_agrees_with_torch_layer_by_layer(name: str, part: str) -> None:
    network = freeze(ARCHITECTURES[name].network(), part)
    image = torch.zeros(1, *network.input_shape)
    counted = counters.backward(frozen(on_meta(lambda: models.build(ModelSpec(model=name))[0]), part, image), image)
    expected = {layer.name: (0, backward_by_torch(layer)) for layer in network.layers}
    assert counted == {name: pair for name, pair in expected.items() if pair[1]}
    work = training.work(network)
    assert sum(map(training.backward_macs, network.layers)) == work.total - work.forward


@pytest.mark.parametrize("norm", ["", "/norm:train"])
@pytest.mark.parametrize(
    ("name", "size", "part"),
    [
        ("simple_cnn", None, "head"),
        ("resnet_cifar", (16, 16), "from:layer3"),
        (INNER[0], (64, 64), INNER[1]),
    ],
)
def test_what_a_parts_step_keeps_agrees_with_autograd(name: str, size: Any, part: str, norm: str) -> None:
    module, image = models.build(ModelSpec(model=name, image_size=size))
    network = freeze(ARCHITECTURES[name].network(size), part + norm)
    module = frozen(module, part + norm, torch.zeros(1, *image))
    kept = training.saved_bytes(network, 3)
    assert kept == kept_of_module(module, torch.rand(3, *image))
    assert 0 < kept < training.saved_bytes(ARCHITECTURES[name].network(size), 3)


@pytest.mark.parametrize("part", ["head", "from:conv3"])
def test_the_peak_of_a_parts_step_is_the_formulas(part: str) -> None:
    network = ARCHITECTURES["simple_cnn"].network()
    first = order_of(network)[-2]
    part = part.replace("conv3", first)
    real = Training("simple_cnn", None, 64, "adam")
    frozen(real.module, part, real.images[:1])
    memory = training.step_memory(freeze(network, part), 64, "adam")
    measured = real.peak()
    assert may_be(memory, measured, 1.01)
    assert memory.peak < training.step_memory(network, 64, "adam").peak


def test_show_tells_what_a_part_costs(cli: Cli) -> None:
    text = cli("show", "resnet18", "--trainable", "head").stdout
    assert "513,000 of 11,689,512 parameters: 1,814,585,344 of 5,324,206,080 MACs" in text
    assert "so at most 2.93 times as fast" in text
    shown = json.loads(cli("show", "resnet18", "--trainable", "head", "--json").stdout)
    assert shown["training"]["saved_bytes"] == 512 * 4
    assert shown["predicted_speedup"] == pytest.approx(2.934, abs=1e-3)
    assert [layer["name"] for layer in shown["layers"] if layer["trained"]] == ["fc"]
    failed = cli("show", "resnet18", "--trainable", "from:top")
    assert (failed.returncode, "one of conv1, bn1, layer1" in failed.stderr) == (2, True)


# --- what a step does ---


@pytest.mark.parametrize("norm", ["", "/norm:train"])
def test_a_step_that_trains_the_head_has_no_backward_pass_below_it(norm: str, tmp_path: Path) -> None:
    module = frozen(Net(), f"head{norm}", SMALL_IMAGES[:1])
    assert isinstance(module.norm.running_mean, Tensor)
    nn.init.uniform_(module.norm.running_mean)
    lasting, changed = after_a_step(module, tmp_path)
    statistics = {f"norm.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert changed.keys() == {"head.weight", "head.bias"} | (statistics if norm else set())
    assert {name for name in lasting if name.endswith("momentum_buffer")} == {
        "head.weight.momentum_buffer",
        "head.bias.momentum_buffer",
    }
    graph = onnx.load(tmp_path / "step.onnx")
    gradients = {node.name.split("/gradient")[0] for node in graph.graph.node if "/gradient" in node.name}
    assert gradients == {"", "head"}  # of the loss, which belongs to the model itself, and of the head


def test_frozen_normalisation_stays_in_its_mode_in_a_module_that_is_trained_and_copied() -> None:
    module = frozen(Net(), "from:middle", SMALL_IMAGES[:1])
    assert not module.train().norm.training
    assert module.middle.training
    assert frozen(Net(), "from:middle/norm:train", SMALL_IMAGES[:1]).train().norm.training


RUN = """
launches: 1
defaults: {workloads: [training], batches: [4], case_budget: 0.2s}
models:
  - {model: simple_cnn, runtimes: [eager, ort], trainable: [all, head]}
"""


@pytest.mark.slow
def test_a_run_sets_a_part_beside_all_in_every_runtime(home: Path, cli: Cli) -> None:
    done = cli("run", write_suite(home, RUN), "--out", "out")
    assert done.returncode == 0, done.stderr
    report = (home / "out" / "report.md").read_text()
    assert "## Training a part against all" in report
    (table,) = [part for part in report.split("\n## ") if part.startswith("Training a part")]
    for backend in ("eager/cpu", "ort/cpu"):
        assert f"simple_cnn/train:head, {backend}, batch 4: predicted ×" in table
        assert table.count(f"| {backend}") == 1


@pytest.mark.slow
def test_compile_trains_a_part_too(home: Path, cli: Cli) -> None:
    suite = RUN.replace("[eager, ort]", "[eager, compile]").replace("[all, head]", "[all, head, from:layer3]")
    done = cli("run", write_suite(home, suite.replace("simple_cnn", "resnet_cifar")), "--out", "out")
    assert done.returncode == 0, done.stderr
    report = (home / "out" / "report.md").read_text()
    for part in ("head", "from:layer3"):
        assert f"resnet_cifar/train:{part}, compile/cpu, batch 4: predicted ×" in report


def test_a_users_model_without_such_a_module_ends_the_run_before_it_is_measured(home: Path, cli: Cli) -> None:
    suite = "defaults: {workloads: [training], batches: [2]}\nmodels: [{model: own_models:works, trainable: from:8}]"
    done = cli("run", write_suite(home, suite), "--out", "out")
    assert done.returncode == 2
    assert "expected from: and a module with parameters, one of 0, 1, 5, or one inside them; got '8'" in done.stderr


# --- what is said of it ---


def saving_of(
    whole_s: float, part_s: float, phases: tuple[float, ...], tmp_path: Path, known: Sequence[Peaks] = ()
) -> Saving:
    """ResNet-18's head beside the whole, as a run of made-up times."""

    def made(part: str, seconds: float, shares: tuple[float, ...]) -> Record:
        case = Case.from_id(HEAD_ID.replace("ort", "eager")).model_copy(update={"trainable": part})
        found = records.record(case, [seconds * (1 + n / 1000) for n in range(8)])
        (launch,) = found.launches
        blocks = [
            block.model_copy(
                update={
                    "seconds": {
                        phase: [total * share for total in block.totals_s()]
                        for phase, share in zip(case.phases, shares, strict=True)
                    }
                }
            )
            for block in launch.blocks
        ]
        assert found.measurement is not None
        launches = [launch.model_copy(update={"blocks": blocks})]
        measurement = found.measurement.model_copy(update={"launches": launches})
        environment = records.ENVIRONMENT.model_copy(update={"threads": Threads(used=(2,), usable=2)})
        return found.model_copy(update={"measurement": measurement, "environment": environment})

    both = [made("all", whole_s, (0.4, 0.55, 0.05)), made("head", part_s, phases)]
    run = Run(tmp_path, "it", "2026-01-01T00:00:00+00:00", records.ENVIRONMENT, {each.id: each for each in both})
    (found,) = savings(replace(run, peaks=list(known)))
    return found


def test_the_bounds_of_both_steps_predict_a_saving_where_the_peaks_are_known(tmp_path: Path) -> None:
    network = ARCHITECTURES["resnet18"].network()
    part, whole = Case.from_id(HEAD_ID.replace("ort", "eager")), freeze(network, "head")
    found = saving_of(1.0, 0.45, (0.9, 0.08, 0.02), tmp_path, [peaks(threads=2)])
    least = [
        case_roofline(of, 1.0, 1, forms, peaks()).lower_bound_s
        for of, forms in ((part, whole), (part.model_copy(update={"trainable": "all"}), network))
    ]
    assert least[0]
    assert least[1]
    assert found.by_bounds == pytest.approx(least[1] / least[0])
    assert found.by_bounds is not None
    assert found.by_bounds > 2
    assert saving_of(1.0, 0.45, (0.9, 0.08, 0.02), tmp_path).by_bounds is None


def test_what_ate_the_difference_is_computed_from_the_records(tmp_path: Path) -> None:
    found = saving_of(1.0, 0.45, (0.9, 0.08, 0.02), tmp_path)
    assert found.by_macs == pytest.approx(2.934, abs=1e-3)
    assert found.measured.value == pytest.approx(1 / 0.45)
    assert sum(share.time for share in found.shares.values()) == pytest.approx(0.45)
    assert found.by_macs is not None
    assert sum(share.macs for share in found.shares.values()) == pytest.approx(1 / found.by_macs)
    times = {phase: share.time for phase, share in found.shares.items()}
    assert times == pytest.approx({"forward": 0.9 * 0.45, "backward": 0.08 * 0.45, "optimizer": 0.02 * 0.45})
    macs = {phase: share.macs * 5_324_206_080 for phase, share in found.shares.items()}
    assert macs == pytest.approx({"forward": 1_814_073_344, "backward": 512_000, "optimizer": 0})
    assert (found.record.case.trainable, found.whole.case.trainable) == ("head", "all")
    assert found.memory == training.step_memory(freeze(ARCHITECTURES["resnet18"].network(), "head"), 8, "momentum")
    assert sentence(found) == (
        "predicted ×2.93 by MACs, measured ×2.22 [2.22, 2.22]: the forward pass has 34 % of the whole step's MACs and "
        "takes 40 % of its time; the backward pass has 0.0096 % of the whole step's MACs and takes 3.6 % of its time."
    )


def test_a_measured_interval_that_holds_the_prediction_eats_nothing(tmp_path: Path) -> None:
    found = saving_of(1.0, 1 / 2.934, (0.9, 0.08, 0.02), tmp_path)
    wide = replace(found, measured=Estimate(2.7, 2.5, 3.0))
    assert sentence(wide).endswith("as predicted, within the interval.")
    ends = [(2.0, 2.9), (2.0, 3.0), (2.9, 3.0), (3.0, 4.0), (None, 3.0), (2.9, None)]
    said = [replace(found, measured=Estimate(2.95, *each), by_macs=3.0).is_as_predicted for each in ends]
    assert said == [False, True, True, True, False, False]
    assert not replace(wide, by_macs=None).is_as_predicted
    assert sentence(replace(found, by_macs=None)).endswith("nothing is predicted without a closed form.")

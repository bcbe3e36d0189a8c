"""Weights from a file are what is timed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cnnbench.errors import ModelError
from cnnbench.records.artifact import WEIGHTS, key_of
from cnnbench.records.messages import Build
from cnnbench.suite.case import Case, ModelSpec
from cnnbench.worker import building, models
from cnnbench.worker.weights import load_weights

LENET = ModelSpec(model="lenet5", seed=3)


def state() -> dict[str, torch.Tensor]:
    return models.build(LENET)[0].state_dict()


def named(file: Path, model: str = "lenet5") -> ModelSpec:
    return ModelSpec(model=model, weights=str(file))


@pytest.mark.parametrize("inside", [None, "state_dict", "model"])
def test_a_state_dict_is_read_from_wherever_a_checkpoint_keeps_it(inside: str | None, tmp_path: Path) -> None:
    file = tmp_path / "net.pt"
    torch.save({inside: state(), "epoch": 3} if inside else state(), file)
    module, _ = models.build(ModelSpec(model="lenet5"))
    load_weights(module, named(file))
    assert torch.equal(module.state_dict()["conv1.weight"], state()["conv1.weight"])


def test_an_artifact_has_the_files_weights_and_they_are_a_part_of_its_key(tmp_path: Path) -> None:
    file = tmp_path / "net.safetensors"
    save_file(state(), file)
    spec, folder = named(file), tmp_path / "x-key"
    building.build_artifact(Build(spec=spec, key="key", folder=str(folder)))
    kept = load_file(folder / WEIGHTS)
    assert all(torch.equal(kept[name], tensor) for name, tensor in state().items())
    before = key_of(spec, "")
    save_file({name: tensor + 1 for name, tensor in state().items()}, file)
    assert key_of(spec, "") != before


def test_a_cases_name_has_the_file() -> None:
    case = Case(spec=named(Path("runs/best.pt")), workload="inference", runtime="ort", batch=1)
    assert case.id == "lenet5/w:runs/best.pt/inference/ort/cpu/fp32/b1"
    assert Case.from_id(case.id).spec.weights == "runs/best.pt"


def _odd(change: Any) -> Any:
    made = state()
    change(made)
    return made


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "there is no file"),
        (_odd(lambda s: s.pop("fc3.bias")), r"the file lacks fc3\.bias"),
        (_odd(lambda s: s.update(more=torch.ones(1))), "has, beside the model's, more"),
        (_odd(lambda s: s.update({"fc3.bias": torch.ones(3)})), r"of another shape fc3\.bias"),
        ([1, 2], "expected a state dict"),
        (Path("x"), "of tensors alone"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_a_sentence(content: Any, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "net.pt"
    if content is not None:
        torch.save(content, file)
    with pytest.raises(ModelError, match=reason):
        load_weights(models.build(ModelSpec(model="lenet5"))[0], named(file))


def test_another_number_of_classes_begins_the_head_anew_and_keeps_every_other_weight(tmp_path: Path) -> None:
    file, folder = tmp_path / "net.safetensors", tmp_path / "x-key"
    save_file(state(), file)
    spec = ModelSpec.checked("lenet5", None, 4, weights=str(file))
    facts = building.build_artifact(Build(spec=spec, key="key", folder=str(folder)))
    assert facts.begun_anew == ["fc3.weight", "fc3.bias"]
    kept = load_file(folder / WEIGHTS)
    assert kept["fc3.weight"].shape == (4, 84)
    assert all(torch.equal(kept[name], tensor) for name, tensor in state().items() if not name.startswith("fc3"))


def test_only_the_heads_tensors_may_be_others_and_only_where_classes_are_given(tmp_path: Path) -> None:
    file = tmp_path / "net.safetensors"
    save_file(state(), file)
    module = models.build(ModelSpec(model="lenet5", classes=4))[0]
    with pytest.raises(ModelError, match=r"shape fc3\.weight, fc3\.bias; for another .*give `classes`"):
        load_weights(module, named(file), ["fc3"])
    save_file({**state(), "fc2.bias": torch.ones(3)}, file)
    with pytest.raises(ModelError, match=r"of another shape fc2\.bias$"):
        load_weights(module, ModelSpec(model="lenet5", classes=4, weights=str(file)), ["fc3"])


def test_classes_beside_weights_are_in_the_name_where_they_are_given() -> None:
    given = ModelSpec.checked("lenet5", None, 10, weights="w.pt")
    assert (given.classes, given.label) == (10, "lenet5/k10/w:w.pt")
    usual = ModelSpec.checked("lenet5", None, None, weights="w.pt")
    assert (usual.classes, usual.label) == (None, "lenet5/w:w.pt")
    assert Case.from_id("lenet5/k10/w:w.pt/inference/ort/cpu/fp32/b1").spec == given


def test_published_weights_are_found_in_the_hub_or_named_with_where_to_put_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    spec = ModelSpec(model="torchvision/squeezenet1_1", weights="DEFAULT")
    module, _ = models.build(ModelSpec(model="torchvision/squeezenet1_1"))
    with pytest.raises(ModelError, match=r"download https://\S+squeezenet1_1-\S+\.pth to \S+checkpoints"):
        load_weights(module, spec)
    (tmp_path / "checkpoints").mkdir()
    wanted = {name: tensor + 1 for name, tensor in module.state_dict().items()}
    torch.save(wanted, tmp_path / "checkpoints" / "squeezenet1_1-b8a52dc0.pth")
    load_weights(module, spec)
    assert torch.equal(module.state_dict()["features.0.bias"], wanted["features.0.bias"])
    with pytest.raises(ModelError, match="nobody publishes its weights"):
        load_weights(module, named(Path("DEFAULT")))

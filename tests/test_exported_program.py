"""A program of torch.export in a file as a model: what it takes, its own weights, its runtimes, what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cnnbench.errors import ModelError
from cnnbench.records.artifact import GRAPH, WEIGHTS, key_of
from cnnbench.records.messages import Build, Count, Open
from cnnbench.records.record import ArtifactFacts
from cnnbench.suite.case import Case, ModelSpec
from cnnbench.suite.runtimes import cannot
from cnnbench.worker import building, models
from cnnbench.worker.counters import collect
from cnnbench.worker.session import Session

BATCH = torch.export.Dim("batch", min=1)


class Net(nn.Module):
    """Convolution, norm, dropout, two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(4, 5)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.norm(self.conv(x)).relu()
        return {"logits": self.fc(self.drop(maps.mean((2, 3)))), "maps": maps}


class Pair(nn.Module):
    """Two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        maps: Tensor = self.conv(image)
        return (maps * mask).mean((2, 3))


def saved(file: Path, module: nn.Module | None = None, batch: Any = BATCH, *inputs: Tensor) -> Path:
    """An exported program of such inputs, whose batch is dynamic or not."""
    torch.manual_seed(7)
    inputs = inputs or (torch.zeros(2, 3, 8, 8),)
    shapes = tuple({0: batch} for _ in inputs) if batch else None
    program = torch.export.export((module or Net()).eval(), inputs, dynamic_shapes=shapes)
    torch.export.save(program, file)
    return file


def built(file: Path, folder: Path) -> tuple[ModelSpec, ArtifactFacts, Path]:
    spec, artifact = ModelSpec(model=str(file)), folder / "net-key"
    return spec, building.build_artifact(Build(spec=spec, key="key", folder=str(artifact))), artifact


def proofs(spec: ModelSpec, artifact: Path, runtime: str) -> list[bool]:
    case = Case(spec=spec, workload="inference", runtime=runtime, batch=2)
    session = Session(Open(case=case, folder=str(artifact)), 1, 0)
    opened = session.open()
    session.phases["forward"]()
    return [parity.passed for parity in (*opened.parity, *session.close().parity)]


def test_a_program_is_run_with_its_own_weights_and_proved_in_torch_and_as_its_graph(tmp_path: Path) -> None:
    file = saved(tmp_path / "net.pt2")
    spec, facts, artifact = built(file, tmp_path)
    assert (facts.input_shape, facts.outputs, facts.onnx_error) == ((3, 8, 8), [(5,), (4, 8, 8)], None)
    program = torch.export.load(file)
    kept = load_file(artifact / WEIGHTS)
    assert set(program.state_dict) == set(kept)
    assert all(torch.equal(kept[name], tensor) for name, tensor in program.state_dict.items())
    for runtime in ("eager", "ort"):
        assert len(found := proofs(spec, artifact, runtime)) >= 3
        assert all(found), runtime


def test_what_it_computes_is_counted(tmp_path: Path) -> None:
    found = collect.count(Count(spec=ModelSpec(model=str(saved(tmp_path / "net.pt2")))))
    macs = 8 * 8 * 4 * 3 * 9 + 4 * 5
    counted = {name: sum(each[1] for each in by_layer.values()) for name, by_layer in found.counted.items()}
    assert {name for name, total in counted.items() if total == macs} >= {"dispatch", "onnx"}, (counted, found.failed)


def test_several_inputs_are_known_from_the_program(tmp_path: Path) -> None:
    file = saved(tmp_path / "pair.pt2", Pair(), BATCH, torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 6, 6))
    spec, facts, artifact = built(file, tmp_path)
    assert facts.inputs == {"image": (3, 8, 8), "mask": (1, 6, 6)}
    assert all(proofs(spec, artifact, "ort"))


def test_another_content_is_another_artifact(tmp_path: Path) -> None:
    spec = ModelSpec(model=str(saved(tmp_path / "net.pt2")))
    before = key_of(spec, "run 1")
    assert key_of(spec, "run 2") == before
    saved(tmp_path / "net.pt2", Net().double().float(), BATCH, torch.zeros(2, 3, 16, 16))
    assert key_of(spec, "run 1") != before


def test_sizes_that_are_dynamic_are_the_examples_or_those_that_are_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "any.pt2"
    auto = torch.export.Dim.AUTO
    program = torch.export.export(
        Net().eval(), (torch.zeros(2, 3, 8, 8),), dynamic_shapes=({0: BATCH, 2: auto, 3: auto},)
    )
    torch.export.save(program, file)
    assert models.build(ModelSpec(model=str(file)))[1] == (3, 8, 8)
    assert models.build(ModelSpec(model=str(file), image_size=(12, 10)))[1] == (3, 12, 10)


def _fixed(file: Path) -> None:
    saved(file, None, None)


def _damaged(file: Path) -> None:
    saved(file).write_bytes(file.read_bytes()[:2000])


def _by_name(file: Path) -> None:
    x = {"x": torch.zeros(2, 3, 8, 8)}
    torch.export.save(torch.export.export(Net().eval(), (), x, dynamic_shapes={"x": {0: BATCH}}), file)


@pytest.mark.parametrize(
    ("make", "settings", "said"),
    [
        (_fixed, {}, "was exported with a fixed batch of 2; expected a dynamic one, such as by torch.export.export"),
        (_damaged, {}, "cannot be read as a program of torch.export, by torch"),
        (_by_name, {}, "its inputs are given by name"),
        (saved, {"image_size": (9, 9)}, "expected x of 3x8x8; got 3x9x9"),
        (saved, {"inputs": (("y", (3, 8, 8)),)}, "takes x; got y"),
    ],
)
def test_what_cannot_be_run_is_refused_in_a_sentence(
    make: Callable[[Path], Any], settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    make(file := tmp_path / "net.pt2")
    with pytest.raises(ModelError) as caught:
        models.build(ModelSpec(model=str(file), **settings))
    assert said in str(caught.value)


def test_a_broken_graph_fails_its_proof(tmp_path: Path) -> None:
    import onnx

    spec, _, artifact = built(saved(tmp_path / "net.pt2"), tmp_path)
    broken = onnx.load(str(artifact / GRAPH))
    (conv,) = (node for node in broken.graph.node if node.op_type == "Conv")
    (pads,) = (each for each in conv.attribute if each.name == "pads")
    pads.ints[:] = [0, 0, 2, 2]
    onnx.save(broken, str(artifact / GRAPH))
    assert not all(proofs(spec, artifact, "ort"))


def test_it_is_for_inference(tmp_path: Path) -> None:
    said = cannot("eager", "training", "cpu", "fp32", "nchw", model="net.pt2")
    assert said == "an exported program is a network in inference; the module that it was made of can be trained"
    assert cannot("eager", "inference", "cpu", "fp32", "nchw", model="net.pt2") is None

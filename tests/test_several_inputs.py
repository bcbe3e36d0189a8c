"""Training steps of models that take more than one input: proved, refused, run, and their memory."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from cnnbench.analysis.replay import replay
from cnnbench.networks import training
from cnnbench.records.artifact import INPUT, STEP
from cnnbench.records.messages import Build, BuildStep, Open, Traced
from cnnbench.records.record import StepFacts
from cnnbench.records.run_folder import read_run
from cnnbench.suite.case import Case, ModelSpec
from cnnbench.suite.optimizer import TIMED_OPTIMIZER, Optimizer
from cnnbench.worker import building
from cnnbench.worker.counters.trace import trace
from cnnbench.worker.export.training import prove as proof
from cnnbench.worker.export.training.step import CannotExport, export_step
from cnnbench.worker.reference import inputs
from cnnbench.worker.reference.parity import labels_for
from cnnbench.worker.runtimes.ort_training import StepSession
from cnnbench.worker.session import Session
from tests.conftest import Cli, write_suite
from tests.own_models import Conditioned
from tests.test_layers import bytes_beside, kept_by_autograd
from tests.test_training_step import ADAM, MOMENTUM, SGD, failed

COUNT, WORDS = 6, 4


class Swapped(Conditioned):
    """The vector's values in another order: parameters, shapes and types are the same."""

    def forward(self, image: Tensor, vector: Tensor) -> Tensor:
        return super().forward(image, vector.flip(1))


class Positioned(Conditioned):
    """And of whole numbers, by which rows are taken from a table, and values from the image's features."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, 4, padding_idx=1)

    def forward(self, image: Tensor, vector: Tensor, positions: Tensor | None = None) -> Tensor:
        assert positions is not None
        picked = self.features(image).gather(1, positions).sum(1, keepdim=True)
        logits: Tensor = super().forward(image, vector) * picked + self.last(self.table(positions).mean(1))
        return logits


class Shifted(Positioned):
    """Takes other rows and values."""

    def forward(self, image: Tensor, vector: Tensor, positions: Tensor | None = None) -> Tensor:
        assert positions is not None
        return super().forward(image, vector, WORDS - 1 - positions)


SHAPES = {"image": (2, 6, 6), "vector": (3,)}
POSITIONS = torch.from_numpy(np.random.default_rng(0).integers(WORDS, size=(COUNT, 3)))


def given(module: nn.Module) -> dict[str, Tensor]:
    floats = dict(zip(SHAPES, inputs.draw(COUNT, SHAPES, 0), strict=True))
    return floats | ({"positions": POSITIONS} if isinstance(module, Positioned) else {})


def exported(module: nn.Module, folder: Path, optimizer: Optimizer) -> StepSession:
    file = str(folder / "step.onnx")
    onnx.save(export_step(module, {name: x[:2] for name, x in given(module).items()}, optimizer), file)
    return StepSession.of(file, 1)


def proved(module: nn.Module, session: StepSession, optimizer: Optimizer, count: int = COUNT) -> StepFacts:
    arrays, labels = tuple(x[:count].numpy() for x in given(module).values()), labels_for(count, Conditioned.classes, 0)
    return proof.prove(module, session, arrays, labels, optimizer, steps=2, further=1)


@pytest.mark.parametrize(
    ("right", "wrong", "optimizer"), [(Conditioned, Swapped, MOMENTUM), (Positioned, Shifted, ADAM)]
)
def test_a_step_of_several_inputs_is_proved_at_any_batch_and_a_wrong_one_fails(
    right: type[nn.Module], wrong: type[nn.Module], optimizer: Optimizer, tmp_path: Path
) -> None:
    module = right()
    session = exported(module, tmp_path, optimizer)
    assert session.inputs == list(given(module))
    for count in (COUNT, 3):
        facts = proved(module, session, optimizer, count)
        assert failed(facts) == []
        assert max(each.limit for each in facts.parity) < 0.05
    assert failed(proved(module, exported(wrong(), tmp_path, optimizer), optimizer)) != []


def test_the_graph_names_its_inputs_as_the_forward_pass_does_and_in_its_order(tmp_path: Path) -> None:
    module = Positioned()
    graph = export_step(module, {name: x[:2] for name, x in given(module).items()}, SGD).graph
    kinds = {value.name: value.type.tensor_type for value in graph.input}
    assert [name for name in kinds if name in given(module)] == ["image", "vector", "positions"]
    assert {kinds[name].shape.dim[0].dim_param for name in (*given(module), "labels")} == {"batch"}
    assert kinds["positions"].elem_type == onnx.TensorProto.INT64
    assert INPUT != "images", "the role of the only one"


@pytest.mark.parametrize(
    ("name", "kinds"),
    [("labels", "labels, learning_rate"), ("step", "drop, draw, step, loss"), ("scale", "parameters")],
)
def test_an_input_that_has_the_name_of_the_steps_own_is_refused_in_a_sentence(name: str, kinds: str) -> None:
    module = Conditioned()
    module.scale = nn.Parameter(torch.ones(()))
    image, vector = given(module).values()
    with pytest.raises(CannotExport) as caught:
        export_step(module, {"image": image[:2], name: vector[:2]}, SGD)
    assert f"the input '{name}' has the name of another input of the step, among" in str(caught.value)
    assert kinds in str(caught.value)


@pytest.mark.parametrize(
    "runtimes", [("eager", "ort"), pytest.param(("compile",), marks=pytest.mark.slow)], ids=" and ".join
)
def test_it_is_built_proved_and_timed_with_a_loss_of_ones_own(runtimes: tuple[str, ...], tmp_path: Path) -> None:
    spec = ModelSpec(
        model="tests.own_models:Conditioned",
        inputs=tuple(SHAPES.items()),
        loss="tests.own_models:squared",
    )
    folder = tmp_path / "x-key"
    building.build_artifact(Build(spec=spec, key="key", folder=str(folder)))
    request = BuildStep(spec=spec, folder=str(folder), out=str(folder / STEP), optimizer=TIMED_OPTIMIZER)
    facts = proof.build_step(request)
    assert facts.error is None
    assert failed(facts) == []
    for runtime in runtimes:
        case = Case(spec=spec, workload="training", runtime=runtime, batch=4)
        session = Session(Open(case=case, folder=str(folder)), 1, 0)
        opened = session.open()
        for phase in session.phases.values():
            phase()
        closed = session.close()
        assert all(parity.passed for parity in (*opened.parity, *closed.parity)), opened
        assert closed.faults == []


def test_what_a_step_holds_counts_every_input(tmp_path: Path) -> None:
    """Autograd keeps the image for the convolution and the vector for the product, and the caller keeps both."""
    module, values = Conditioned(), {}
    for length in (3, 300):
        module.extra = nn.Linear(length, 4)
        traced = trace(module, torch.zeros(1, 2, 6, 6), torch.zeros(1, length))
        network = replay("own", Traced.model_validate_json(traced.model_dump_json())).network
        x = torch.rand(COUNT, 2, 6, 6), torch.rand(COUNT, length)
        kept = kept_by_autograd(lambda: module.train()(*x))  # noqa: B023
        memory = training.step_memory(network, COUNT, "sgd")
        assert memory.saved == bytes_beside(kept, [*module.parameters(), *module.buffers()])
        values[length] = memory
    assert values[300].peak - values[3].peak == 4 * 297 * (2 * 4 + COUNT)  # a weight, its gradient and the vector


@pytest.mark.slow
def test_a_real_run_trains_it_in_both_runtimes(cli: Cli, home: Path) -> None:
    suite = write_suite(
        home,
        "defaults: {workloads: [training], runtimes: [eager, ort], batches: [4], case_budget: 0.2s}\n"
        "launches: 1\nbudget: 60s\nmodels:\n"
        "  - {model: 'own_models:Conditioned', loss: 'own_models:squared', inputs: {image: [2, 6, 6], vector: [3]}}\n",
    )
    done = cli("run", suite, "--out", "out")
    assert done.returncode == 0, done.stderr
    records = list(read_run(home / "out").records.values())
    assert [record.case.runtime for record in records] == ["eager", "ort"]
    for record in records:
        assert record.status in ("ok", "noisy"), record.reasons
        assert "@image=2x6x6,vector=3/l:own_models:squared/training" in record.case.id
    assert all(parity.passed for parity in records[1].parity)
    assert any("optimizer's states" in parity.what for parity in records[1].parity)

"""Models that ask how many images there are: their graphs hold for any number, or the line is named that forbids it."""

import inspect
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cnnbench.analysis.status import status_of
from cnnbench.records.messages import Build, Open
from cnnbench.suite.case import Case, ModelSpec
from cnnbench.worker import building
from cnnbench.worker.export import inference
from cnnbench.worker.export.any_batch import FixedBatch, any_batch, traced_line
from cnnbench.worker.export.training import prove as proof
from cnnbench.worker.export.training.step import CannotExport, export_step
from cnnbench.worker.reference import inputs
from cnnbench.worker.reference.parity import labels_for
from cnnbench.worker.runtimes.ort import make_session
from cnnbench.worker.session import Session
from tests.test_training_step import MOMENTUM, exported, failed

IMAGE, CLASSES = (3, 4, 4), 5
IMAGES = inputs.images(5, IMAGE, 0)


class Asks(nn.Module):
    """A function of a layer's activations (N, 8, 2, 2), and a head."""

    def __init__(self, then: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.conv, self.last, self.then = nn.Conv2d(3, 8, 3), nn.Linear(32, CLASSES), then

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.then(torch.tanh(self.conv(x))))
        return logits


def views(x: Tensor) -> Tensor:
    return x.view(len(x), -1)


def makes(x: Tensor) -> Tensor:
    return x.flatten(1) + torch.ones(len(x), 32)


def divides(x: Tensor) -> Tensor:
    return x.flatten(1) + x.sum((0, 2, 3)).mean() / (x.shape[0] * 4) + 0.1 * (len(x) + 2)


def refuses_none(x: Tensor) -> Tensor:
    if len(x) == 0:
        raise ValueError("no image")
    return x.flatten(1)


@pytest.mark.parametrize("then", [views, makes, divides, refuses_none])
def test_a_size_stays_open_in_a_step(then: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    module = Asks(then)
    session = exported(module, tmp_path, MOMENTUM, IMAGES)
    for count in (1, 3):
        labels = labels_for(count, CLASSES, 0)
        assert failed(proof.prove(module, session, IMAGES[:count].numpy(), labels, MOMENTUM)) == []


def test_a_size_stays_open_in_inference(tmp_path: Path) -> None:
    module, file = Asks(views), tmp_path / "model.onnx"
    inference.save(inference.trace(module, IMAGES[:2]), module, file)
    session = make_session(str(file), "cpu", 1)
    for count in (1, 3):
        (found,) = session.run(None, {inference.INPUT: IMAGES[:count].numpy()})
        np.testing.assert_allclose(found, module(IMAGES[:count]).detach(), atol=1e-5)


class Along(nn.GRU):
    """Goes along the pixels; torch's exporter makes a loop of it, with a body of its own."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        found: Tensor = super().forward(x.flatten(2).transpose(1, 2))[0]
        return found.flatten(1)


def test_sizes_within_the_body_of_a_loop_are_none_of_the_number_of_images() -> None:
    inference.trace(Asks(Along(8, 8, batch_first=True)), IMAGES[:2])


def loops(x: Tensor) -> Tensor:
    found = []
    for i in range(len(x)):  # here
        found.append(x[i].flatten())
    return torch.stack(found)


def stacks(x: Tensor) -> Tensor:
    return torch.stack([each.flatten() for each in x])  # here


def branches(x: Tensor) -> Tensor:
    if x.shape[0] > 1:  # here
        x = x - x.mean(0)
    return x.flatten(1)


def converts(x: Tensor) -> Tensor:
    count = int(x.shape[0])  # here
    return x.reshape(count, -1)


def splits(x: Tensor) -> Tensor:
    return torch.cat([part.flatten(1) for part in torch.split(x, 1)])  # here


@pytest.mark.parametrize("then", [loops, stacks, branches, converts, splits])
def test_the_line_that_goes_by_the_number_of_images_is_named(then: Callable[[Tensor], Tensor]) -> None:
    lines, first = inspect.getsourcelines(then)
    place, line = next((first + i, line.strip()) for i, line in enumerate(lines) if "# here" in line)
    said = f"goes by the number of images at test_any_batch.py:{place} (`{line}`)"
    with pytest.raises(CannotExport) as step:
        export_step(Asks(then), IMAGES[:2], MOMENTUM)
    with pytest.raises(FixedBatch) as graph:
        inference.trace(Asks(then), IMAGES[:2])
    for error in (step.value, graph.value):
        assert said in str(error)
    assert inference.said(graph.value) == str(graph.value)


def inverse(x: Tensor) -> Tensor:
    return x.flatten(1) * (1 / len(x))


def test_another_function_of_the_number_of_images_has_no_rule_and_is_named() -> None:
    with pytest.raises(CannotExport, match=r"mul\.Tensor \(test_any_batch\.py:\d+\): a value computed from the number"):
        export_step(Asks(inverse), IMAGES[:2], MOMENTUM)


def looks(x: Tensor) -> Tensor:
    return x.flatten(1) if x.mean().item() > 0 else -x.flatten(1)


def test_a_condition_on_values_is_none_on_the_number_of_images() -> None:
    with pytest.raises(CannotExport, match=r"data-dependent"):
        export_step(Asks(looks), IMAGES[:2], MOMENTUM)


def centred() -> nn.Module:
    return Asks(lambda x: (x - x.mean(0)).flatten(1) + x.mean())


def plain() -> nn.Module:
    return Asks(views)


@pytest.mark.parametrize(("made", "mixes"), [("centred", True), ("plain", False)])
def test_outputs_that_depend_on_the_other_images_are_told_as_such(made: str, mixes: bool, tmp_path: Path) -> None:
    spec, folder = ModelSpec(model=f"tests.test_any_batch:{made}", image_size=IMAGE[1:]), tmp_path / "x-key"
    facts = building.build_artifact(Build(spec=spec, key="key", folder=str(folder)))
    session = Session(
        Open(case=Case(spec=spec, workload="inference", runtime="eager", batch=4), folder=str(folder)), 1, 0
    )
    status, reasons = status_of([], session.open().parity, facts=facts)
    assert (facts.mixes_images, status, len(reasons) > 0) == (mixes, "invalid", mixes)
    assert all("an image's outputs depend on the others of its batch" in each.detail for each in reasons)


def test_python_is_as_it_was_after_a_trace() -> None:
    usual = len, torch.SymBool.__bool__
    with any_batch():
        assert len is not usual[0]
        assert len([1, 2]) == len("ab") == 2
    assert (len, torch.SymBool.__bool__) == usual


def test_the_users_line_of_a_stack_is_the_innermost_that_is_not_torchs() -> None:
    of_torch = f'File "{torch.__file__}", line 3, in forward'
    assert traced_line(f'File "/a/nets.py", line 7, in f\n{of_torch}') == "nets.py:7"
    assert traced_line(of_torch) == ""

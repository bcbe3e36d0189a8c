"""Steps of small networks put together at random from operators of all kinds, against PyTorch in float64."""

import tempfile
from pathlib import Path

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnbench.worker.export.training import prove as proof
from cnnbench.worker.export.training.step import export_step
from cnnbench.worker.reference import inputs
from cnnbench.worker.reference.parity import labels_for
from cnnbench.worker.runtimes.ort_training import StepSession
from tests.pieces import CLASSES, PIECES, SHAPE, network
from tests.test_training_step import MOMENTUM, failed

COUNT = 8


def check(names: list[str]) -> None:
    """Export the step of these pieces and prove it."""
    module = network(names)
    draws = [inputs.images(COUNT, SHAPE, seed) for seed in range(3)]
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "step.onnx")
        onnx.save(export_step(module, draws[0][:2], MOMENTUM), file)
        session = StepSession.of(file, 1)
    labels = labels_for(COUNT, CLASSES, 0)
    proofs = (proof.prove(module, session, x.numpy(), labels, MOMENTUM) for x in draws)
    assert failed(proof.first_that_passes(proofs)) == []


GROUPS = [list(PIECES)[start : start + 3] for start in range(0, len(PIECES), 3)]


@pytest.mark.parametrize("names", GROUPS, ids=["+".join(names).replace(" ", "_") for names in GROUPS])
def test_each_piece_stands_in_a_proved_step(names: list[str]) -> None:
    check(names)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(sorted(PIECES)), min_size=1, max_size=4))
def test_pieces_in_any_order(names: list[str]) -> None:
    check(names)

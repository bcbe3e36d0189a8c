"""Dropout's random numbers in the exported step: a function of the draw, the site and the element alone."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import nn

from cnnbench.suite.optimizer import Optimizer
from cnnbench.worker.export.training.rules import dropout
from cnnbench.worker.export.training.step import export_step
from cnnbench.worker.graphs.elementary import elementary
from cnnbench.worker.graphs.graph import Graph, Tensor
from cnnbench.worker.runtimes.eager import weights_of
from cnnbench.worker.runtimes.ort_training import StepSession

SITES, ROWS, COLUMNS = 3, 64, 1280
SIGMAS = 5
"""That a mean may be away from what is expected; one of 10^6 is."""
Numbers = NDArray[np.float64]


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    """A graph that puts out the numbers of several sites."""
    g = Graph()
    x = g.input("x", (None, COLUMNS))
    for site in range(SITES):
        g.output(dropout.drawn(g, x), f"site{site}")
    made = g.model("numbers", {})
    onnx.checker.check_model(made, full_check=True)
    return made


def numbers(at: ort.InferenceSession, draw: int) -> list[Numbers]:
    """Of each site, (ROWS, COLUMNS) in [0, 1)."""
    x = np.zeros((ROWS, COLUMNS), np.float32)
    found = at.run(None, {"x": x, "draw": np.asarray(draw, np.int64)})
    return [each.astype(np.float64) / 2**dropout.BITS for each in found]


def deviations(one: Numbers, other: Numbers) -> float:
    """By how many standard deviations the correlation of two samples differs from none."""
    return float(((one - 0.5) * (other - 0.5)).mean() * 12 * math.sqrt(one.size))


@pytest.mark.parametrize("draw", [0, 1, 2, 977, 2**31, 2**32, 2**62 + 5])
def test_numbers_are_uniform_and_independent_of_their_neighbours(model: onnx.ModelProto, draw: int) -> None:
    for found in numbers(session(model), draw):
        u, n = found.ravel(), found.size
        assert u.min() >= 0
        assert u.max() < 1
        assert abs(u.mean() - 0.5) * math.sqrt(12 * n) < SIGMAS
        assert abs(((u - 0.5) ** 2).mean() - 1 / 12) * math.sqrt(180 * n) < SIGMAS
        assert stats.chisquare(np.bincount((u * 1024).astype(int), minlength=1024)).pvalue > 1e-6
        pairs = (u[:-1] * 32).astype(int) * 32 + (u[1:] * 32).astype(int)
        assert stats.chisquare(np.bincount(pairs, minlength=1024)).pvalue > 1e-6
        for lag in (1, 2, 3, 4, 8, 16, 32, 256, COLUMNS, 4 * COLUMNS):
            assert abs(deviations(u[:-lag], u[lag:])) < SIGMAS


def test_sites_and_steps_are_independent_of_each_other(model: onnx.ModelProto) -> None:
    at = session(model)
    drawn = [each for draw in (*range(8), 2**32, 2**32 + 1) for each in numbers(at, draw)]
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert abs(deviations(one, other)) < SIGMAS
            assert abs(deviations(one.ravel()[1:], other.ravel()[:-1])) < SIGMAS


def test_one_element_is_uniform_and_independent_over_the_steps(model: onnx.ModelProto) -> None:
    at, few = session(model), np.zeros((1, COLUMNS), np.float32)
    found = np.stack([at.run(["site0"], {"x": few, "draw": np.asarray(d, np.int64)})[0][0] for d in range(2000)])
    u = found.astype(np.float64) / 2**dropout.BITS
    assert np.abs(u.mean(0) - 0.5).max() * math.sqrt(12 * len(u)) < SIGMAS
    for lag in (1, 2, 64):
        correlations = ((u[:-lag] - 0.5) * (u[lag:] - 0.5)).mean(0) * 12 * math.sqrt(len(u) - lag)
        assert np.abs(correlations).max() < SIGMAS


def test_what_other_providers_run_draws_the_same_numbers(model: onnx.ModelProto) -> None:
    everywhere = elementary(model)
    onnx.checker.check_model(everywhere, full_check=True)
    operators = {node.op_type for node in everywhere.graph.node}
    assert {"Mul", "Add", "Div"} < operators
    assert not any("Bit" in each for each in operators)
    for draw in (0, 3, 2**40):
        for one, other in zip(numbers(session(model), draw), numbers(session(everywhere), draw), strict=True):
            assert (one == other).all()


def by_hand(draw: int, site: int, count: int) -> list[int]:
    """A site's first numbers, below 2**24, in Python's whole numbers: two rounds of 64 bits, and two of 32 for each."""

    def mixed(z: int, bits: int, odd: int, modulus: int) -> int:
        return (z + z * (z >> bits)) * odd % modulus

    z = mixed(draw * 0x9E3779B97F4A7C15 % 2**64, 32, 0xBF58476D1CE4E5B9, 2**64)
    z = mixed((z + 0x9E3779B97F4A7C15) % 2**64, 31, 0x94D049BB133111EB, 2**64)
    first, second = ((z * key % 2**64) >> 32 for key in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
    first, second = (first + site * 0x21F0AAAD) % 2**32, (second + site * 0x735A2D97) % 2**32
    found = []
    for place in range(count):
        z = mixed((place * 0x9E3779B9 + first) % 2**32, 16, 0x21F0AAAD, 2**32)
        found.append(mixed((z + second) % 2**32, 15, 0x735A2D97, 2**32) >> 8)
    return found


def test_a_step_that_was_exported_earlier_or_elsewhere_draws_these_numbers() -> None:
    """Also of the tenth site, whose number times a constant is beyond 32 bits."""
    g = Graph(scope="layer")
    x = g.input("x", (None, 3))
    g.output(dropout.drawn(g, x), "first")
    g.draws = 9
    g.output(dropout.drawn(g, x), "tenth")
    made = g.model("numbers", {})
    scopes = [node.name.partition("/")[0] for node in made.graph.node]
    assert (scopes, set(scopes)) == (sorted(scopes), {"draw", "layer"}), "what all sites share stands first"
    for draw in (0, 1, 7, 2**40 + 3):
        first, tenth = session(made).run(None, {"x": np.zeros((2, 3), np.float32), "draw": np.asarray(draw, np.int64)})
        assert first.ravel().astype(int).tolist() == by_hand(draw, 1, 6)
        assert tenth.ravel().astype(int).tolist() == by_hand(draw, 10, 6)


@pytest.mark.parametrize("drop", [0.0, 0.5, 1.0])
def test_what_is_kept_is_divided_by_the_share_of_it_and_so_is_its_gradient(drop: float) -> None:
    """Of p = 0.5 times the scale `drop`; Bernoulli numbers are between themselves and their mean."""
    g = Graph()
    x = replace(g.input("x", (None, 50)), varies=True)
    dropped = dropout.dropout(g, None, x, 0.5)
    ((_, dx),) = dropped.argument_gradients(g, [g.constant(np.full((1, 50), 3.0))])
    ones = dropout.bernoulli(g, None, x, 0.25)
    assert isinstance(dx, Tensor)
    for i, each in enumerate((dropped.outputs[0], dx, dropped.others[0], ones.outputs[0])):
        g.output(each, f"result{i}")
    feed = {
        "x": np.full((1, 50), 2.0, np.float32),
        "draw": np.asarray(5, np.int64),
        "drop": np.asarray(drop, np.float32),
    }
    y, gradient, kept, drawn = session(g.model("dropped", {})).run(None, feed)
    expected = np.asarray(by_hand(5, 1, 50)) >= 0.5 * drop * 2**24
    assert (drop == 0) == expected.all()
    assert kept.ravel().tolist() == expected.tolist()
    np.testing.assert_allclose(y.ravel(), 2 * expected / (1 - 0.5 * drop))
    np.testing.assert_allclose(gradient.ravel(), 3 * expected / (1 - 0.5 * drop))
    are_one = np.asarray(by_hand(5, 2, 50)) < 0.25 * 2**24
    np.testing.assert_allclose(drawn.ravel(), drop * are_one + (1 - drop) * 0.25, rtol=1e-6)


class Dropped(nn.Module):
    """What the gradient of its weight shows: which values two dropouts kept."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Parameter(torch.ones(2, 2000)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> Any:
        x = x.flatten(1)
        one, other = (nn.functional.dropout(x, 0.25, self.training) for _ in range(2))
        return nn.functional.linear(one, self.first) + nn.functional.linear(other, self.second)


def test_a_step_repeats_its_masks_from_the_draw_alone_and_counts_it_on(tmp_path: Path) -> None:
    module, x, labels = Dropped(), np.ones((2, 1, 2000), np.float32), np.zeros(2, np.int64)
    file = str(tmp_path / "step.onnx")
    onnx.save(export_step(module, torch.from_numpy(x), Optimizer()), file)
    steps = StepSession.of(file, 1)

    def masks(draw: int) -> list[NDArray[np.bool_]]:
        steps.begin({**weights_of(module), "draw": np.asarray(draw, np.int64)}, 1.0, drop=True)
        steps.train(x[:1], labels[:1])
        assert steps.values()["draw"] == draw + 1
        return [steps.values()[name][0] == 1 for name in ("first", "second")]

    first, again, later = masks(7), masks(7), masks(8)
    assert all((one == other).all() for one, other in zip(first, again, strict=True))
    assert all(abs(each.mean() - 0.25) < 0.05 for each in (*first, *later))
    pairs = [(first[0], first[1]), (first[0], later[0]), (first[1], later[1]), (first[0], later[1])]
    assert all(abs((one & other).mean() - 1 / 16) < 0.03 for one, other in pairs)


def test_a_network_without_dropout_has_no_draw() -> None:
    model = export_step(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), torch.zeros(2, 1, 4, 4), Optimizer())
    assert "draw" not in {value.name for value in model.graph.input}
    assert not any("Bit" in node.op_type for node in model.graph.node)

"""Graphs of small networks put together at random from operators of all kinds, as they are timed, against float64."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import onnx
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cnnbench.errors import WorkerError
from cnnbench.records.artifact import GRAPH
from cnnbench.records.messages import Build, Open
from cnnbench.suite.case import Case, ModelSpec
from cnnbench.worker import building, models
from cnnbench.worker.session import Session
from tests.pieces import FURTHER, MISEXPORTED, NOT_EXPORTED, OF_BATCHES, PIECES, SHAPE, network

NAMES = sorted({*PIECES, *FURTHER} - {*OF_BATCHES, *NOT_EXPORTED, *MISEXPORTED})
SPEC = ModelSpec(model="tests.pieces:network")
BATCH = 3


@contextmanager
def artifact(names: list[str]) -> Iterator[Path]:
    """Of the network of these pieces."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as made:
        patch.setattr(models, "_made", lambda _: (network(names), SHAPE, None))
        folder = Path(made) / "x-key"
        facts = building.build_artifact(Build(spec=SPEC, key="key", folder=str(folder)))
        assert facts.onnx_error is None, facts.onnx_error
        yield folder


def failed(folder: Path, runtime: str = "ort") -> list[str]:
    """What differs from float64 in a launch: batches of 1, 2 and 3 images, and the timed one."""
    case = Case(spec=SPEC, workload="inference", runtime=runtime, batch=BATCH)
    session = Session(Open(case=case, folder=str(folder)), 1, 0)
    opened = session.open()
    session.phases["forward"]()
    closed = session.close()
    assert closed.faults == []
    compared = [*opened.parity, *closed.parity]
    assert len(compared) == BATCH + 1
    return [f"{each.what}: {each.error}, limit {each.limit}" for each in compared if not each.passed]


def check(names: list[str]) -> None:
    """Build it, and run it in ONNX Runtime and with its batch normalisations folded, where torch.fx can trace it."""
    with artifact(names) as folder:
        assert failed(folder) == []
        with suppress(WorkerError):  # what torch.fx cannot trace
            assert failed(folder, "folded") == []


NETWORKS = st.lists(st.sampled_from(NAMES), min_size=2, max_size=5)


@pytest.mark.slow
@settings(max_examples=20, deadline=None, phases=[Phase.generate, Phase.shrink])  # to explain, it would trace each line
@given(NETWORKS)
def test_pieces_in_any_order_compute_what_float64_does(names: list[str]) -> None:
    check(names)


GROUPS = [NAMES[start : start + 3] for start in range(0, len(NAMES), 3)]


@pytest.mark.slow
@pytest.mark.parametrize("names", GROUPS, ids=["+".join(names).replace(" ", "_") for names in GROUPS])
def test_each_piece_computes_what_float64_does(names: list[str]) -> None:
    check(names)


@pytest.mark.slow
def test_a_graph_that_torch_exports_wrong_fails() -> None:
    with artifact([*MISEXPORTED]) as folder:
        assert len(failed(folder)) == BATCH + 1


def off_by_one_percent(model: onnx.ModelProto, place: int) -> onnx.ModelProto:
    """The model with the output of a node enlarged."""
    wrong = onnx.ModelProto()
    wrong.CopyFrom(model)
    nodes = list(wrong.graph.node)
    output = nodes[place].output[0]
    nodes[place].output[0] = "right"
    factor = onnx.helper.make_tensor("factor", onnx.TensorProto.FLOAT, (), [1.01])
    nodes.insert(place + 1, onnx.helper.make_node("Mul", ["right", "factor"], [output]))
    del wrong.graph.node[:]
    wrong.graph.node.extend(nodes)
    wrong.graph.initializer.append(factor)
    return wrong


def test_a_graph_fails_in_which_any_node_is_off_by_one_percent() -> None:
    with artifact(["depthwise", "mish", "squeeze"]) as folder:
        right = onnx.load(folder / GRAPH)
        typed = onnx.shape_inference.infer_shapes(right).graph
        types = {value.name: value.type.tensor_type.elem_type for value in (*typed.value_info, *typed.output)}
        floats = [i for i, node in enumerate(typed.node) if types[node.output[0]] == onnx.TensorProto.FLOAT]
        assert {"Conv", "Gemm", "Mish", "Mul"} <= {typed.node[i].op_type for i in floats}
        for place in floats:
            onnx.save(off_by_one_percent(right, place), str(folder / GRAPH))
            assert len(failed(folder)) == BATCH + 1, typed.node[place]

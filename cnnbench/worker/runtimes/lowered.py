"""What torch.compile makes of a quantised program: how much of its arithmetic int8 kernels do."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import fx
from torch._inductor.custom_graph_pass import CustomGraphPass

from cnnbench.worker.runtimes.shares import Executed, shares

INT8_OPERATORS = {"qconv_pointwise", "qconv2d_pointwise", "qlinear_pointwise"}
"""oneDNN's, which take the weight in the place `WEIGHT`."""
WEIGHT = 3
REST = "the rest"
FLOAT_OPERATORS = {
    *("convolution", "_convolution_pointwise", "_convolution_pointwise_", "_convolution_transpose_pointwise"),
    *("mm", "addmm", "bmm", "baddbmm", "_linear_pointwise", "_mkl_linear"),
}


class LoweredGraph(CustomGraphPass):
    """Notes the nodes of the graph that is compiled, after int8 kernels have been put in, and changes nothing."""

    def __init__(self) -> None:
        self.executed: list[Executed] = []
        self.macs: dict[str, int] = {}
        """For the whole batch, of each node in int8."""
        self.operators: Counter[str] = Counter()

    def __call__(self, graph: fx.Graph) -> None:
        """Note them, in place of those of an earlier graph."""
        self.executed, self.macs, self.operators = [], {}, Counter()
        for node in graph.nodes:
            if node.op == "call_function":
                self._note(node)

    def _note(self, node: fx.Node) -> None:
        name = operator_of(node)
        self.operators[name] += 1
        if name in INT8_OPERATORS:
            self.executed.append(Executed([node.name], "int8", name))
            self.macs[node.name] = _macs(node, is_linear=name == "qlinear_pointwise")
        elif name in FLOAT_OPERATORS:
            self.executed.append(Executed([layer_of(node)], "fp32", name))

    def uuid(self) -> bytes | None:
        """None: a graph from a cache would not pass here."""
        return None

    def shares(self, macs: Mapping[str, int], batch: int, asked: str) -> dict[str, Any]:
        """`Ran`'s `shares` and `elsewhere`; `macs` are the program's by node, for one image.

        What is not in int8 nodes is left for those in float32, or is `unknown` where there are none.
        """
        rest = sum(macs.values()) * batch - sum(self.macs.values())
        return shares(self.executed, {**self.macs, REST: max(rest, 0)}, asked)


def operator_of(node: fx.Node) -> str:
    """The operator without library and overload: `qconv_pointwise`."""
    name = node.target.name() if hasattr(node.target, "name") else getattr(node.target, "__name__", str(node.target))
    return str(name).partition("::")[2].partition(".")[0] or str(name)


def layer_of(node: fx.Node) -> str:
    """The module that the node comes from, as torch names it; the node's own name where that is not known."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return (stack[-1][0] if stack else "") or node.name


def _macs(node: fx.Node, *, is_linear: bool) -> int:
    """Of an int8 node with output (N, K, ...): weights are (K, C, ...) of a convolution, (C, K) of a linear layer."""
    weight = node.args[WEIGHT]
    assert isinstance(weight, fx.Node)
    shape = weight.meta["val"].shape
    return int(math.prod(node.meta["val"].shape) * (shape[0] if is_linear else math.prod(shape[1:])))

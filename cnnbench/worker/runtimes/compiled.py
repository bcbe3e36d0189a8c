"""torch.compile, compiled for the case's own batch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cnnbench.errors import WorkerError
from cnnbench.records.reason import Reason
from cnnbench.records.record import ArtifactFacts, Ran
from cnnbench.suite.case import Case, Device
from cnnbench.suite.runtimes import split
from cnnbench.worker.reference.parity import Array
from cnnbench.worker.runtimes.eager import Eager, EagerInference, EagerTraining


def check_compiler(device: Device) -> None:
    """Raises WorkerError where torch.compile has no compiler for the device's kernels."""
    if device == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler

        try:
            get_cpp_compiler()
        except Exception as error:
            raise WorkerError(f"torch.compile needs a C++ compiler such as g++: {type(error).__name__}") from None
        return
    import importlib.util

    if importlib.util.find_spec("triton") is None:
        raise WorkerError("torch.compile needs triton on CUDA: pip install triton")


def compiled(module: nn.Module, case: Case) -> Callable[[Tensor], Any]:
    """The module as it will be compiled at its first call, for fixed shapes."""
    _, mode = split(case.runtime)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    return torch.compile(module, mode=mode or None, dynamic=False)


def compiler_facts() -> dict[str, int | str | None]:
    """What the compiler did: graphs, kernels, and whether its cache was cold or warm."""
    from torch._inductor import metrics

    counters = torch._dynamo.utils.counters
    hits, misses = (int(counters["inductor"][f"fxgraph_cache_{what}"]) for what in ("hit", "miss"))
    return {
        "graphs": int(counters["stats"]["unique_graphs"]),
        "compile_cache": "warm" if hits and not misses else "cold" if misses else "not used",
        "kernels": metrics.generated_kernel_count if misses else None,  # those from the cache are not counted
    }


def graph_breaks() -> dict[str, int]:
    """How often, by reason, the compiler gave part of the model back to Python."""
    breaks = torch._dynamo.utils.counters["graph_break"]
    return {" ".join(str(reason).split())[:120]: int(count) for reason, count in breaks.items()}


def break_faults() -> list[Reason]:
    """Graph breaks: what was compiled is not the whole model."""
    breaks = graph_breaks()
    if not breaks:
        return []
    reason = next(iter(breaks))
    return [Reason(code="graph-breaks", detail=f"{sum(breaks.values())}, the first: {reason}")]


class _Compiled(Eager):
    """What compiled inference and training share; the first call compiles."""

    takes_any_batch = False

    @classmethod
    def probe(cls, device: Device, variant: str = "") -> str:
        """The device's name. Raises WorkerError where there is no compiler for it, or torch's own error."""
        check_compiler(device)
        return super().probe(device)

    def __init__(self, case: Case, facts: ArtifactFacts, folder: Path, batch: Array, threads: int) -> None:
        super().__init__(case, facts, folder, batch, threads)
        self.run = compiled(self.module, case)

    def ran(self) -> Ran:
        """With what the compiler did."""
        ran = super().ran()
        return ran.model_copy(update={"graph_breaks": graph_breaks(), "facts": ran.facts | compiler_facts()})

    def layout_faults(self) -> list[Reason]:
        """None: the layout inside a compiled graph is the compiler's own business."""
        return []

    def faults(self) -> list[Reason]:
        """With graph breaks."""
        return [*break_faults(), *super().faults()]


class CompiledInference(_Compiled, EagerInference):
    """Inference."""


class CompiledTraining(_Compiled, EagerTraining):
    """Training: forward and backward compiled, the loss and the optimizer's step as in eager."""

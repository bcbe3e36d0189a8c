"""torch.compile, compiled for the case's own batch."""

import importlib.util
from pathlib import Path

import torch
from torch import nn

from cnnbench.errors import WorkerError
from cnnbench.records.artifact import graph_file, read_graph
from cnnbench.records.reason import Reason
from cnnbench.records.record import ArtifactFacts, Ran
from cnnbench.suite.case import Case, Device
from cnnbench.suite.runtimes import FREEZING, split
from cnnbench.worker.exported_program import load_quantised, quantiser
from cnnbench.worker.reference.parity import Tensors
from cnnbench.worker.runtimes.compiler import check_compiler
from cnnbench.worker.runtimes.eager import Eager, EagerInference, EagerTraining
from cnnbench.worker.runtimes.lowered import LoweredGraph
from cnnbench.worker.runtimes.shares import precision_facts


class _Compiled(Eager):
    """What compiled inference and training share; the first call compiles, for fixed shapes."""

    takes_any_batch = False

    @classmethod
    def probe(cls, device: Device, variant: str = "") -> str:
        """The device's name. Raises WorkerError where there is no compiler for its kernels, or torch's own error."""
        if device == "cpu":
            check_compiler("torch.compile")
        elif importlib.util.find_spec("triton") is None:
            raise WorkerError("torch.compile needs triton on CUDA: pip install triton")
        return super().probe(device)

    def __init__(self, case: Case, facts: ArtifactFacts, folder: Path, batch: Tensors, threads: int) -> None:
        super().__init__(case, facts, folder, batch, threads)
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        variant = split(case.runtime)[1]
        # Set for the process: tracing, too, has to know of it.
        torch._inductor.config.freezing = variant == FREEZING
        mode = None if variant == FREEZING else variant or None
        self.run = torch.compile(self.run, mode=mode, dynamic=False)

    def ran(self) -> Ran:
        """With what the compiler did: graphs, kernels, and whether its cache was cold or warm."""
        from torch._inductor import metrics

        counters, ran = torch._dynamo.utils.counters, super().ran()
        hits, misses = (int(counters["inductor"][f"fxgraph_cache_{what}"]) for what in ("hit", "miss"))
        facts = {
            "graphs": int(counters["stats"]["unique_graphs"]),
            "compile_cache": "warm" if hits and not misses else "cold" if misses else "not used",
            "kernels": metrics.generated_kernel_count if misses else None,  # those from the cache are not counted
        }
        return ran.model_copy(update={"graph_breaks": _graph_breaks(), "facts": ran.facts | facts})

    def layout_faults(self) -> list[Reason]:
        """None: the layout inside a compiled graph is the compiler's own business."""
        return []

    def faults(self) -> list[Reason]:
        """With graph breaks: what was compiled is then not the whole model."""
        found, breaks = super().faults(), _graph_breaks()
        if not breaks:
            return found
        detail = f"{sum(breaks.values())}, the first: {next(iter(breaks))}"
        return [Reason(code="graph-breaks", detail=detail), *found]


class CompiledInference(_Compiled, EagerInference):
    """Inference; in int8 of the program that PyTorch has quantised."""

    def __init__(self, case: Case, facts: ArtifactFacts, folder: Path, batch: Tensors, threads: int) -> None:
        super().__init__(case, facts, folder, batch, threads)
        self.made = read_graph(folder, case) if case.has_own_graph else None
        self.lowered = LoweredGraph() if self.made else None
        torch._inductor.config.post_grad_custom_pre_pass = self.lowered

    def loaded(self, facts: ArtifactFacts, folder: Path) -> nn.Module:
        if self.case.has_own_graph:
            return load_quantised(folder / graph_file(self.case))
        return super().loaded(facts, folder)

    def ran(self) -> Ran:
        """In int8, with what int8 kernels did of it and which recipe it is."""
        ran = super().ran()
        if self.made is None or self.lowered is None:
            return ran
        found = self.lowered.shares(self.made.macs, self.case.batch, self.case.format)
        recipe = {"quantised_by": f"{quantiser()}, PT2E for x86"}
        facts = ran.facts | recipe | precision_facts(self.case, self.made)
        return ran.model_copy(update={**found, "operators": dict(self.lowered.operators), "facts": facts})


class CompiledTraining(_Compiled, EagerTraining):
    """Training: forward and backward compiled, the loss and the optimizer's step as in eager."""


def _graph_breaks() -> dict[str, int]:
    """How often, by reason, the compiler gave part of the model back to Python."""
    breaks = torch._dynamo.utils.counters["graph_break"]
    return {" ".join(str(reason).split())[:120]: int(count) for reason, count in breaks.items()}

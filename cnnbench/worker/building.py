"""A model made into an artifact, by what it is given as: a module, or an ONNX file, for which no torch is imported."""

import pkgutil
from pathlib import Path

from cnnbench.records.artifact import fault_of, read_facts, seal
from cnnbench.records.cache import filling, locked, remove
from cnnbench.records.messages import Build
from cnnbench.records.record import ArtifactFacts

MODULE, ONNX_FILE = "cnnbench.worker.artifact:fill", "cnnbench.worker.onnx_artifact:fill"


def build_artifact(request: Build) -> ArtifactFacts:
    """Build and count the model, compute its reference, and check its graph, into a folder.

    The folder appears at once, complete; others that want it meanwhile wait. Why a graph cannot be exported is in the
    facts; the rest is of use without it. Raises ModelError for a model that cannot be built or run.
    """
    folder = Path(request.folder)
    with locked(folder):
        known = read_facts(folder) if fault_of(folder) is None else None
        if known is not None and known.onnx_error is None:
            return known
        fill = pkgutil.resolve_name(ONNX_FILE if request.spec.is_onnx_file else MODULE)
        with filling(folder) as building:
            facts = ArtifactFacts.model_validate(fill(request, building))
            if known is not None and facts.onnx_error is not None:  # others may be running what is there
                remove(building)
            else:
                seal(building, request.key)
    return facts


def export_once() -> None:
    """Export a small module: exporters import some four hundred modules at their first call."""
    import torch
    from tqdm import tqdm

    from cnnbench.suite.optimizer import TIMED_OPTIMIZER
    from cnnbench.worker.export import inference
    from cnnbench.worker.export.training.step import export_step

    tqdm.monitor_interval = 0  # a thread that would watch progress bars; a process that has one is not forked
    module, images = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1, 2)), torch.zeros(2, 1, 1, 1)
    inference.trace(module.eval(), images)
    export_step(module.train(), images, TIMED_OPTIMIZER)

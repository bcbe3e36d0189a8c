"""What clipping by the global norm adds to the exported training step in ONNX Runtime.

    python -m tests.benchmarks.clipping [--rounds 15] [--batch 8] [model ...]

Steps with and without it are measured in turn, round by round, in one process. Printed are milliseconds, medians over
the rounds, and the bytes that the closed form says clipping moves.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import onnx
import torch

from cnnbench.networks.registry import ARCHITECTURES
from cnnbench.networks.training import clipping_bytes
from cnnbench.networks.units import MB
from cnnbench.runner import machine
from cnnbench.suite.case import ModelSpec
from cnnbench.suite.optimizer import TIMED_LEARNING_RATE, TIMED_OPTIMIZER
from cnnbench.worker import models
from cnnbench.worker.export.training.step import export_step
from cnnbench.worker.reference.parity import labels_for
from cnnbench.worker.runtimes.eager import weights_of
from cnnbench.worker.runtimes.ort_training import StepSession

MODELS = ("lenet5", "simple_cnn", "resnet18", "alexnet")


def session(name: str, batch: int, max_norm: float | None, folder: Path) -> StepSession:
    spec = ModelSpec(model=name)
    module, image = models.build(spec)
    assert isinstance(image, tuple)
    classes = models.try_out(module, image, spec).classes
    file = str(folder / "step.onnx")
    optimizer = TIMED_OPTIMIZER.model_copy(update={"max_norm": max_norm})
    onnx.save(export_step(module, torch.zeros(2, *image), optimizer), file)
    found = StepSession.of(file, machine.usable_threads())
    found.begin(weights_of(module), TIMED_LEARNING_RATE, drop=True)
    found.bind(torch.rand(batch, *image).numpy(), labels_for(batch, classes, 0))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("models", nargs="*", default=MODELS)
    given = parser.parse_args()
    print(f"batch {given.batch}", "without, ms", "with, ms", "MB moved", sep=" | ")
    for name in given.models:
        with tempfile.TemporaryDirectory() as folder:
            sessions = [session(name, given.batch, max_norm, Path(folder)) for max_norm in (None, 1.0)]
        seconds: list[list[float]] = [[], []]
        for _ in range(given.rounds):
            for each, run in zip(seconds, sessions, strict=True):
                run.step()
                begun = time.perf_counter()
                for _ in range(3):
                    run.step()
                each.append((time.perf_counter() - begun) / 3)
        moved = clipping_bytes(ARCHITECTURES[name].network()) / MB
        print(name, *(f"{median(each) * 1e3:.2f}" for each in seconds), f"{moved:.1f}", sep=" | ", flush=True)


if __name__ == "__main__":
    main()

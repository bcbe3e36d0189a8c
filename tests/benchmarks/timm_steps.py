"""Which of timm's networks train from their exported step: `python -m tests.benchmarks.timm_steps NAME ...`.

Prints a row of docs/training.md for each: parameters, nodes, the worst error of the proof as a share of its limit,
and how long exporting and proving took; or the reason why there is no step. `--size` is the side of the images where a
network has no size of its own.
"""

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import onnx
import torch

from cnnbench.errors import CnnbenchError
from cnnbench.suite.case import ModelSpec
from cnnbench.suite.optimizer import TIMED_OPTIMIZER
from cnnbench.worker import models
from cnnbench.worker.export.training.prove import FURTHER_STEPS, first_that_passes, prove
from cnnbench.worker.export.training.step import export_step
from cnnbench.worker.reference import inputs
from cnnbench.worker.reference.parity import PROOF_IMAGES, labels_for
from cnnbench.worker.runtimes.ort_training import StepSession

CLASSES, DRAWS, SIZE = 10, 3, 64
"""Batches of images that a proof may try (docs/training.md), and the side of images."""


def row(name: str, size: int, threads: int) -> str:
    """Export the step of a network of timm and prove it."""
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        size = config.input_size[-1]
    elif config is not None and config.min_input_size:
        size = max(size, config.min_input_size[-1])
    spec = ModelSpec(model=f"timm/{name}", image_size=(size, size), classes=CLASSES)
    cells = [f"`{name}`", f"{size}"]
    try:
        module, image = models.build(spec)
        assert isinstance(image, tuple)
        models.try_out(module, image, spec)
        inputs.randomise_degenerate(module, image, 0)
        draws = [inputs.images(PROOF_IMAGES, image, seed) for seed in range(DRAWS)]
        begun = time.perf_counter()
        model = export_step(module, draws[0][:2], TIMED_OPTIMIZER)
        exported = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "step.onnx"
            onnx.save(model, str(file))
            session = StepSession.of(str(file), threads)
        labels = labels_for(PROOF_IMAGES, CLASSES, 0)
        proofs = (prove(module, session, x.numpy(), labels, TIMED_OPTIMIZER, further=FURTHER_STEPS) for x in draws)
        facts = first_that_passes(proofs)
    except CnnbenchError as error:
        return " | ".join([*cells, "", "", "", "", f"{error}"])
    done = time.perf_counter()
    failed = [f"{each.what}: {each.error}, limit {each.limit:.1g}" for each in facts.parity if not each.passed]
    worst = max(facts.parity, key=lambda each: float("inf") if each.error is None else each.error / each.limit)
    off = "not finite" if worst.error is None else f"{worst.error:.1g} of {worst.limit:.1g}"
    times = [f"{exported - begun:.1f}", f"{done - exported:.1f}"]
    return " | ".join([*cells, f"{len(model.graph.node):,}", off, *times, facts.error or "; ".join(failed) or "proved"])


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--size", type=int, default=SIZE)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    warnings.simplefilter("ignore")
    print(
        "| network | images | nodes | worst error of its limit | export, s | proof, s | |", "|---" * 7 + "|", sep="\n"
    )
    for name in asked.names:
        print(f"| {row(name, asked.size, asked.threads)} |", flush=True)


if __name__ == "__main__":
    main()

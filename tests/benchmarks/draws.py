"""Dropout's random numbers in ONNX Runtime: hashed from a counter, as a step has them, against RandomUniformLike.

    python -m tests.benchmarks.draws [--rounds 30] [--batch 8]

All of a shape are measured in turn, round by round, in one process. Printed are microseconds of a graph that draws once
and compares, medians over the rounds.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np
import onnxruntime as ort
from onnx import TensorProto

from cnnbench.runner import machine
from cnnbench.worker.export.training.rules import dropout
from cnnbench.worker.graphs.graph import Graph, Tensor

SITES = {
    "AlexNet, before fc6": (9216,),
    "AlexNet, before fc7": (4096,),
    "EfficientNet-B0, before the classifier": (1280,),
    "EfficientNet-B0, stochastic depth": (1, 1, 1),
    "a map of 64 x 56 x 56": (64, 56, 56),
}
HALF = 2.0 ** (dropout.BITS - 1)


def hashed(g: Graph, x: Tensor) -> Tensor:
    return g("GreaterOrEqual", dropout.drawn(g, x), g.constant(HALF))


def generated(g: Graph, x: Tensor) -> Tensor:
    return g("GreaterOrEqual", g("RandomUniformLike", x), g.constant(0.5))


def session(kept: Callable[[Graph, Tensor], Tensor], shape: Sequence[int], threads: int) -> ort.InferenceSession:
    g = Graph()
    mask = kept(g, g.input("x", (None, *shape)))
    g.output(g.sum(g("Cast", mask, to=TensorProto.FLOAT), range(len(shape) + 1)), "kept")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    model = g.model("mask", {}).SerializeToString()
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--batch", type=int, default=8)
    given = parser.parse_args()
    ways = {"hashed": hashed, "RandomUniformLike": generated}
    print(f"batch {given.batch}, microseconds", *ways, sep=" | ")
    for name, shape in SITES.items():
        sessions = {way: session(kept, shape, machine.usable_threads()) for way, kept in ways.items()}
        x = ort.OrtValue.ortvalue_from_numpy(np.zeros((given.batch, *shape), np.float32))
        draw = ort.OrtValue.ortvalue_from_numpy(np.zeros((), np.int64))
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(given.rounds):
            for way, run in sessions.items():
                feed = {"x": x, **({"draw": draw} if way == "hashed" else {})}
                run.run_with_ort_values(["kept"], feed)
                begun = time.perf_counter()
                for _ in range(5):
                    run.run_with_ort_values(["kept"], feed)
                seconds[way].append((time.perf_counter() - begun) / 5)
        print(name, *(f"{median(each) * 1e6:.0f}" for each in seconds.values()), sep=" | ")


if __name__ == "__main__":
    main()

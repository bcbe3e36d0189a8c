"""Whether cnnbench's medians agree with torch.utils.benchmark and with a plain loop around ONNX Runtime.

    python -m tests.benchmarks.agreement --model resnet18 --model lenet5 --rounds 20

For each model at batch 1, cnnbench's worker and a plain child process are alive together and measured in turn, in
random order, the idle one stopped. Printed is the ratio of their medians from the same rounds, with its 95 % interval;
1 is full agreement.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from uuid import uuid4

import psutil

from cnnbench.analysis.stats import launch_ratio_estimate, median_estimate
from cnnbench.networks import registry
from cnnbench.records import artifact
from cnnbench.records.messages import Build, Load, Loaded, Open, Opened, Sample, Sampled, Warm, Warmed
from cnnbench.records.record import ArtifactFacts
from cnnbench.runner import machine
from cnnbench.runner.interleave import PLANNED_ROUNDS, Participant, measure_interleaved
from cnnbench.runner.worker_process import Worker, thread_environment
from cnnbench.suite.case import Case, ModelSpec

LIMIT_S = 300.0


class Ours:
    """cnnbench's worker on a case."""

    def __init__(self, worker: Worker, case: Case, folder: Path, threads: int) -> None:
        self.worker = worker
        worker.ask(Load(case=case, threads=threads), Loaded)
        worker.ask(Open(case=case, folder=str(folder)), Opened)
        self.calls = worker.ask(Warm(limit_s=3.0), Warmed).calls_per_sample
        self.suspend()

    def resume(self) -> None:
        self.worker.resume()

    def suspend(self) -> None:
        self.worker.suspend()

    def sample(self, seconds: float) -> Sampled:
        samples = self.worker.ask(Sample(seconds=seconds), Sampled).seconds["forward"]
        return Sampled(seconds={"forward": [sample / self.calls for sample in samples]})


class Plain:
    """A child process that runs `plain` below."""

    def __init__(self, stack: ExitStack, case: Case, folder: Path, threads: int) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.agreement", "--child", case.runtime, case.spec.model]
        process = subprocess.Popen(
            [*command, str(folder), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **thread_environment(threads)},
        )
        self.process = stack.enter_context(process)
        stack.callback(process.kill)
        assert process.stdin is not None
        assert process.stdout is not None
        self.input, self.output = process.stdin, process.stdout
        self.handle = psutil.Process(process.pid)
        self.sample(0.5)
        self.suspend()

    def resume(self) -> None:
        self.handle.resume()

    def suspend(self) -> None:
        self.handle.suspend()

    def sample(self, seconds: float) -> Sampled:
        self.input.write(f"{seconds}\n")
        self.input.flush()
        return Sampled(seconds={"forward": json.loads(self.output.readline())})


def plain(runtime: str, model: str, folder: Path, threads: int) -> None:
    """The child: seconds per line in, times of calls per line out, by the means that everybody has."""
    from safetensors.numpy import load_file

    images = load_file(folder / artifact.GOLDEN)["images"][:1]
    if runtime == "ort":
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        session = ort.InferenceSession(folder / artifact.GRAPH, options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: images}

        def measure(seconds: float) -> list[float]:
            session.run(None, feed)
            times: list[float] = []
            end = time.perf_counter() + seconds
            while not times or time.perf_counter() < end:
                start = time.perf_counter()
                session.run(None, feed)
                times.append(time.perf_counter() - start)
            return times

    else:
        import torch
        from safetensors.torch import load_file as load_tensors
        from torch.utils.benchmark import Timer

        from cnnbench.worker import models

        module, _ = models.build(ModelSpec(model=model))
        module.load_state_dict(load_tensors(folder / artifact.WEIGHTS))
        names = {"module": module.eval(), "x": torch.from_numpy(images), "torch": torch}
        timer = Timer("with torch.inference_mode():\n    module(x)", globals=names, num_threads=threads)

        def measure(seconds: float) -> list[float]:
            return [float(timer.blocked_autorange(min_run_time=seconds).median)]

    for line in sys.stdin:
        print(json.dumps(measure(float(line))), flush=True)


def compare(model: str, rounds: int) -> None:
    """Print one line for each runtime of a model."""
    threads = machine.usable_threads()
    architecture = registry.get(model)
    spec = ModelSpec(model=model, image_size=architecture.image_size, classes=architecture.classes)
    key = artifact.key_of(spec, uuid4().hex)
    folder = artifact.folder_of(spec, key)
    with tempfile.TemporaryDirectory() as logs:
        if artifact.read_facts(folder) is None:
            with Worker(Path(logs) / "build.log", threads, LIMIT_S) as worker:
                worker.ask(Build(spec=spec, key=key, folder=str(folder)), ArtifactFacts)
        for runtime, other in (("eager", "torch.utils.benchmark"), ("ort", "plain loop")):
            case = Case.model_validate({"spec": spec, "workload": "inference", "runtime": runtime, "batch": 1})
            with ExitStack() as stack:
                worker = stack.enter_context(Worker(Path(logs) / "ours.log", threads, LIMIT_S))
                participants: list[Participant] = [
                    Ours(worker, case, folder, threads),
                    Plain(stack, case, folder, threads),
                ]
                turn_s = 0.25
                results = measure_interleaved(participants, turn_s * PLANNED_ROUNDS, random.Random(0), rounds=rounds)
            ours, theirs = ([block.totals_s() for block in result.blocks] for result in results)
            ratio = launch_ratio_estimate([ours], [theirs])
            both = [median_estimate([median(block) for block in blocks]).value * 1e3 for blocks in (ours, theirs)]
            print(
                f"{case.id}: cnnbench {both[0]:.4g} ms, {other} {both[1]:.4g} ms, "
                f"ratio {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] over {len(ours)} rounds"
            )


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        runtime, model, folder, threads = options.child
        plain(runtime, model, Path(folder), int(threads))
        return
    for model in options.model or ["lenet5", "mobilenet_v2", "resnet18"]:
        compare(model, options.rounds)


if __name__ == "__main__":
    main()

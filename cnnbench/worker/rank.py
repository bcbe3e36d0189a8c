"""One rank of a training step on several, started by torchrun: asked through a socket, one JSON object a line.

Every rank holds the module in DistributedDataParallel with a batch of its own, and answers every request:

    {"op": "predict", "file": F}     rank 0: outputs of the inputs in F.npz, to F.out.npz
    {"op": "step", "calls": N}       seconds of N steps by phase, begun together
    {"op": "reset_peak"}
    {"op": "close"}                  what ran, its memory, the last loss, a digest of its parameters
    {"op": "measure"}                seconds of all-reduces, and of steps with and without theirs
"""

import gc
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from cnnbench.records.messages import Open
from cnnbench.worker.allocator import allocator_in_force
from cnnbench.worker.reference.parity import each, labels_for, open_artifact, several, tiled
from cnnbench.worker.runtimes import device as devices
from cnnbench.worker.runtimes.eager import EagerTraining
from cnnbench.worker.runtimes.registry import import_libraries
from cnnbench.worker.timing import usage
from cnnbench.worker.timing.measure import time_block

SIZES = (10**6, 25 * 10**6, 100 * 10**6)
"""Bytes of all-reduces: DistributedDataParallel sends gradients in buckets of 25 MiB, the first of 1 MiB."""
REPETITIONS = 5
PAIRS, BLOCK_S, MAX_CALLS = 6, 0.2, 200
"""Blocks of steps with and without their all-reduce, and how long each is."""


class Rank:
    """A training step among others."""

    def __init__(self, request: Open, threads: int, rank: int, ranks: int) -> None:
        """Load the artifact, and take this rank's share of the batch of all."""
        case, folder = request.case, Path(request.folder)
        facts, (images, _) = open_artifact(folder)
        if case.device == "cuda":
            torch.cuda.set_device(rank)
        own = slice(rank * case.batch, (rank + 1) * case.batch)
        batch = each(lambda array: np.ascontiguousarray(array[own]), tiled(images, case.batch * ranks))
        self.training = EagerTraining(case, facts, folder, batch, threads)
        labels = labels_for(case.batch * ranks, facts.classes, case.spec.seed, facts.places)[own]
        self.training.labels = torch.from_numpy(labels).to(self.training.device)
        self.module = self.training.module
        self.together = DistributedDataParallel(self.module, [rank] if case.device == "cuda" else None)
        self.training.run = self.together
        self.phases = self.training.phases()
        self.is_first = rank == 0

    def predict(self, file: str) -> dict[str, Any]:
        """By the module alone, on the first rank."""
        if self.is_first:
            with np.load(f"{file}.npz") as inputs:
                arrays = tuple(inputs[name] for name in inputs.files)
            self.training.run = self.module
            outputs = self.training.predict(arrays if len(arrays) > 1 else arrays[0])
            self.training.run = self.together
            np.savez(f"{file}.out.npz", *several(outputs))
        return {}

    def step(self, calls: int) -> dict[str, Any]:
        """Seconds by phase of so many steps; garbage is collected before and not meanwhile."""
        gc.collect()
        gc.disable()
        self._begin()
        return {"seconds": time_block(self.phases, calls, self.training.stopwatch)}

    def reset_peak(self) -> dict[str, Any]:
        """Reset the peak of memory."""
        gc.freeze()
        self.training.reset_peak()
        return {}

    def close(self) -> dict[str, Any]:
        """What ran."""
        ran = self.training.ran().model_copy(update={"allocator": allocator_in_force()})
        digest = sha256()
        for parameter in self.module.parameters():
            digest.update(devices.to_host(parameter).tobytes())
        return {
            "ran": ran.model_dump(mode="json"),
            "faults": [fault.model_dump(mode="json") for fault in self.training.faults()],
            "memory": self.training.memory(0, usage.resident_bytes()).model_dump(mode="json"),
            "loss": float(self.training.result()),  # type: ignore[arg-type]
            "parameters": digest.hexdigest(),
            "backend": distributed.get_backend(),
        }

    def measure(self) -> dict[str, Any]:
        """Behind all timed steps, for the parameters differ between ranks afterwards."""
        all_reduces = {size: [self._all_reduce_s(size) for _ in range(REPETITIONS + 1)][1:] for size in SIZES}
        call_s = self._agreed(self._steps_s(1, together=True))
        calls = int(min(max(BLOCK_S / max(call_s, 1e-6), 1), MAX_CALLS))
        blocks = [(self._steps_s(calls, together=True), self._steps_s(calls, together=False)) for _ in range(PAIRS)]
        with_, without = zip(*blocks, strict=True)
        return {"all_reduces": all_reduces, "step_s": with_, "apart_s": without}

    def _begin(self) -> None:
        distributed.barrier()
        devices.synchronize(self.training.device)

    def _steps_s(self, calls: int, *, together: bool) -> float:
        with nullcontext() if together else self.together.no_sync():
            self._begin()
            return sum(time_block(self.phases, calls, self.training.stopwatch).values()) / calls

    def _all_reduce_s(self, size: int) -> float:
        buffer = torch.zeros(size // 4, device=self.training.device)
        self._begin()
        start = time.perf_counter()
        distributed.all_reduce(buffer)
        devices.synchronize(self.training.device)
        return time.perf_counter() - start

    def _agreed(self, seconds: float) -> float:
        """The mean over ranks, so that all make as many calls."""
        found = torch.tensor([seconds], device=self.training.device)
        distributed.all_reduce(found)
        return float(found) / distributed.get_world_size()


def main() -> None:
    """Answer requests until the socket is closed."""
    place, threads = sys.argv[1], int(sys.argv[2])
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(place)
        stream = connection.makefile("rw", encoding="utf-8")
        request = Open.model_validate_json(stream.readline())
        import_libraries(request.case, threads)
        distributed.init_process_group("nccl" if request.case.device == "cuda" else "gloo")
        try:
            one = Rank(request, threads, rank, ranks)
            handlers: Mapping[str, Callable[..., dict[str, Any]]] = {
                name: getattr(one, name) for name in ("predict", "step", "reset_peak", "close", "measure")
            }
            stream.write(json.dumps({"rank": rank}) + "\n")
            stream.flush()
            for line in stream:
                asked = json.loads(line)
                stream.write(json.dumps(handlers[asked.pop("op")](**asked)) + "\n")
                stream.flush()
        finally:
            distributed.destroy_process_group()


if __name__ == "__main__":
    main()

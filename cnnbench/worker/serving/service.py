"""A case that is served: several sessions of its model behind a queue, tested by LoadGen."""

import math
import pkgutil
from functools import partial
from pathlib import Path

import psutil

from cnnbench.errors import WorkerOutOfMemory
from cnnbench.records.messages import Closed, Open, Opened
from cnnbench.records.record import Parity
from cnnbench.records.serving import LoadTest
from cnnbench.records.serving_messages import Drive
from cnnbench.worker.reference.parity import Array, Tensors, each, part, several, tiled
from cnnbench.worker.runtimes.base import Runtime
from cnnbench.worker.runtimes.registry import class_of
from cnnbench.worker.serving.batcher import Serve
from cnnbench.worker.session import Session
from cnnbench.worker.timing import measure, usage


class Service(Session):
    """A session that serves, with further ones beside it. What runs is the model's inference."""

    def __init__(self, request: Open, threads: int, imported_bytes: int) -> None:
        self.served = request.case
        plain = {"workload": "inference", "p99_ms": None, "sessions": 1, "delay_ms": 0.0}
        case = request.case.model_copy(update=plain)
        super().__init__(request.model_copy(update={"case": case}), threads, imported_bytes)
        self.folder, self.threads, self.slowdown = Path(request.folder), threads, request.slowdown
        self.runtimes: list[Runtime] = [self.runtime]
        self.last: dict[int, tuple[list[int], Tensors]] = {}
        """The images of each session's last batch, and its outputs."""
        self.parity: list[Parity] = []

    def open(self) -> Opened:
        """Check the first session, then open the others. Raises WorkerOutOfMemory where there is no memory for them."""
        opened = super().open()
        more = self.served.sessions - 1
        each_bytes = max(usage.resident_bytes() - self.imported_bytes, 0)
        if (free_bytes := psutil.virtual_memory().available) < more * each_bytes:
            raise WorkerOutOfMemory(
                f"{self.served.sessions} sessions need about {(more + 1) * each_bytes / 2**30:.1f} GiB, and "
                f"{free_bytes / 2**30:.1f} GiB are available; use at most {1 + free_bytes // each_bytes}"
            )
        kind = class_of(self.case.runtime, "inference")
        batch = tiled(self.images, self.case.batch)
        for _ in range(more):
            self.runtimes.append(kind(self.case, self.facts, self.folder, batch, self.threads))
        for place in range(len(self.runtimes)):  # the first call of each is slower
            self._serve(place)([0] * self.case.batch)
        self._compare_last()
        self.loaded_bytes = usage.resident_bytes()
        return opened

    def drive(self, request: Drive) -> LoadTest:
        """One test by LoadGen."""
        loadgen = pkgutil.resolve_name("cnnbench.worker.serving.loadgen")  # an extra, and large
        sessions: list[Serve] = []
        if request.system == "model":
            sessions = [self._serve(place) for place in range(len(self.runtimes))]
        elif request.system == "queue":
            sessions = [lambda _: None]
        batch, delay_s = request.batch or self.case.batch, request.delay_s
        delay_s = self.served.delay_ms / 1e3 if delay_s is None else delay_s
        test: LoadTest = loadgen.drive(request, sessions, batch, delay_s, len(several(self.images)[0]))
        self._compare_last()
        return test

    def close(self) -> Closed:
        """With how far the outputs under load were from the reference, at worst."""
        closed = super().close()
        worst = max(self.parity, key=lambda parity: math.inf if parity.error is None else parity.error)
        return closed.model_copy(update={"parity": [*closed.parity, worst]})

    def _serve(self, place: int) -> Serve:
        runtime = self.runtimes[place]
        answer = measure.slowed(runtime.serve, self.slowdown)
        whole = 0 if runtime.takes_any_batch else self.case.batch

        def serve(images: list[int]) -> None:
            if len(images) == 1:
                batch = part(self.images, slice(images[0], images[0] + 1))
            else:
                batch = each(partial(_taken, places=images), self.images)
            if len(images) < whole:  # compiled for one batch, so that what is missing is filled up
                batch = tiled(batch, whole)
            self.last[place] = images, answer(batch)

        return serve

    def _compare_last(self) -> None:
        """Compare each session's last outputs with the reference."""
        for images, outputs in self.last.values():
            reference = each(partial(_taken, places=images), self.reference)
            served = part(outputs, slice(len(images)))
            self.parity.append(self._compare(f"served b{len(images)}", served, reference))
        self.last.clear()


def _taken(array: Array, places: list[int]) -> Array:
    return array[places]

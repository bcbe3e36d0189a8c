"""Workers that serve in theory: what LoadGen would say of a queue, computed instead of waited for."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from cnnbench.errors import CnnbenchError
from cnnbench.records.messages import Close, Closed, Load, Loaded, Open, Opened, Request, Warm, Warmed
from cnnbench.records.serving import LoadTest
from cnnbench.records.serving_messages import Drive
from cnnbench.suite.case import Case
from tests.in_process import MEMORY, RAN

R = TypeVar("R", bound=BaseModel)

CALL_S, IMAGE_S = 0.004, 0.006
"""Of a call, and of each image in it beside that, on one thread."""


class SimulatedWorker:
    """A worker as its parent sees it, whose service saturates at its capacity; it writes down what it is asked."""

    def __init__(self, log: Path, threads: int, limit_s: float, *, asked: list[Drive] | None = None) -> None:
        self.log, self.threads, self.limit_s, self.pid = log, threads, limit_s, os.getpid()
        self.asked = [] if asked is None else asked
        self.fail: Callable[[Drive], CnnbenchError | None] = lambda _: None
        self._next: BaseModel | None = None
        self.case: Case | None = None

    def __enter__(self) -> "SimulatedWorker":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    resume = suspend = kill = lambda self: None

    def send(self, request: Request) -> None:
        self._next = self._answer(request)

    def receive(self, answer: type[R]) -> R:
        assert isinstance(self._next, answer)
        return self._next

    def ask(self, request: Request, answer: type[R]) -> R:
        self.send(request)
        return self.receive(answer)

    def latencies_s(self, rate: float, batch: int, delay_s: float) -> tuple[float, float]:
        """p50 and p99 at a rate; the queue forms batches as large as the rate asks for, or waits for whole ones."""
        formed = next((n for n in range(1, batch) if self.capacity(n) > 1.3 * rate and not delay_s), batch)
        assert self.case is not None
        p50_s = formed / self.capacity(formed) * self.case.sessions + delay_s
        load = rate / self.capacity(formed)
        return p50_s, p50_s * (1 + 4 * load / (1 - load)) if load < 0.99 else 100.0

    def capacity(self, batch: int) -> float:
        """Images per second: two threads are 1.6 times as fast as one, two sessions 1.9 times."""
        assert self.case is not None
        speed = {1: 1.0, 2: 1.6}[self.threads] * {1: 1.0, 2: 1.9}[self.case.sessions]
        return speed * batch / (CALL_S + batch * IMAGE_S)

    def _answer(self, request: Request) -> BaseModel:
        match request:
            case Load():
                return Loaded(import_s=0.1)
            case Open():
                self.case = request.case
                return Opened(load_s=0.1, first_call_s=0.01, parity=[])
            case Warm():
                return Warmed(calls=9, seconds=0.1, converged=True, calls_per_sample=1, call_s=CALL_S + IMAGE_S)
            case Close():
                return Closed(parity=[], memory=MEMORY, ran=RAN.model_copy(update={"threads": self.threads}), faults=[])
            case Drive():
                self.asked.append(request)
                if error := self.fail(request):
                    raise error
                return self._tested(request)
        raise AssertionError(request)

    def _tested(self, request: Drive) -> LoadTest:
        assert self.case is not None
        batch = request.batch or self.case.batch
        capacity = self.capacity(batch)
        p50_s, p99_s = self.latencies_s(request.rate or 0.0, batch, request.delay_s or 0.0)
        if request.scenario != "server":
            p50_s = p99_s = batch / capacity * self.case.sessions
        late = p99_s > (request.bound_s or 1e9)
        queries = max(request.min_queries, 1)
        images = queries * (8 if request.scenario == "multi" else 1)
        about: dict[str, Any] = {"p50_s": p50_s, "p90_s": (p50_s + p99_s) / 2, "p99_s": p99_s, "own_p50_s": p50_s}
        return LoadTest(
            scenario=request.scenario,
            rate=request.rate,
            valid=not late,
            queries=queries,
            over=int(queries * min(1.0, 0.02 * p99_s / request.bound_s)) if late and request.bound_s else 0,
            per_s=capacity,
            **about,
            wall_s=queries / capacity,
            cpu_s=queries / capacity,
            calls=max(1, queries // batch),
            images=images,
            min_queries=request.min_queries,
            min_s=request.min_s,
            seed=request.seed,
            logs=request.folder,
        )

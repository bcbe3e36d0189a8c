"""A queue of queries in front of several sessions, which takes those that wait together as a batch."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

Serve = Callable[[list[int]], None]
"""Computes the outputs of these images."""


class Query(NamedTuple):
    """One image that waits."""

    id: int
    image: int
    arrived_s: float
    """By `time.perf_counter`."""


class Batcher:
    """Dynamic batching: a session takes what waits, `batch` queries at most, and may wait for more.

    It waits until the first of them has waited for `delay_s`. One thread for each session; all are daemons, and end
    with `close`.
    """

    def __init__(
        self, sessions: Sequence[Serve], batch: int, delay_s: float, answer: Callable[[Sequence[Query]], None]
    ) -> None:
        """`answer` is called in a session's thread when a batch is done."""
        self.batch, self.delay_s, self.answer = batch, delay_s, answer
        self.error: Exception | None = None
        """What a session raised first; since then queries are answered without being computed."""
        self.formed: list[int] = []
        """The size of each batch."""
        self._queue: queue.SimpleQueue[Query | None] = queue.SimpleQueue()
        self._gathering = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(each,), daemon=True) for each in sessions]
        for thread in self._threads:
            thread.start()

    def put(self, query: Query) -> None:
        """Have it served."""
        self._queue.put(query)

    def close(self) -> None:
        """End the threads when what waits is served."""
        self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self, serve: Serve) -> None:
        while batch := self._gather():
            if self.error is None:
                try:
                    serve([query.image for query in batch])
                except Exception as error:
                    self.error = error
            self.formed.append(len(batch))
            self.answer(batch)

    def _gather(self) -> list[Query]:
        """The next batch; none at the end. One session gathers at a time, so that none takes a part of another's."""
        if self.batch == 1:
            return self._taken(None)
        with self._gathering:
            found = self._taken(None)
            ends_s = found[0].arrived_s + self.delay_s if found else 0.0
            while found and len(found) < self.batch:
                more = self._taken(ends_s)
                if not more:
                    break
                found += more
            return found

    def _taken(self, ends_s: float | None) -> list[Query]:
        """The next query: for which is waited until then, or as long as it takes."""
        left_s = None if ends_s is None else max(ends_s - time.perf_counter(), 0.0)
        try:
            query = self._queue.get(left_s != 0.0, left_s)
        except queue.Empty:
            return []
        if query is None:  # for the others too
            self._queue.put(None)
            return []
        return [query]

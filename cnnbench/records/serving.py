"""What LoadGen measured of a model that is served: tests of its scenarios, and what a launch found out by them."""

from typing import Annotated, Literal

from pydantic import Field

from cnnbench.records.bounds import Count, PositiveCount, Recorded, Seconds
from cnnbench.records.reason import Interference

Scenario = Literal["single", "multi", "server", "offline"]
"""
single   one query at a time, the next when it is answered (LoadGen: SingleStream)
multi    as before, with eight images in a query (MultiStream)
server   an open loop: queries arrive by a Poisson process, whatever becomes of those before (Server)
offline  one query with all images (Offline)
"""
Purpose = Literal["scenario", "low-load", "search"]
"""
scenario  for its own figures
low-load  one of a pair, `single` and `server` at a tenth of its rate, that check each other
search    for the highest rate within the bound
"""
MIN_QUERIES_P90, MIN_QUERIES_P99 = 64, 662
"""LoadGen's minimal numbers of queries for an estimate of the percentile at 99 % confidence."""
MIN_DURATION_S = 600.0
"""MLPerf's minimal duration of a test, which ours are shorter than."""
IMAGES_OF_MULTI = 8
"""In each query of the scenario."""
Latency = Annotated[float, Field(ge=1e-12, lt=1e9)]
"""Seconds that others are divided by."""
Rate = Annotated[float, Field(ge=1e-9, lt=1e15)]
"""Per second."""


class LoadTest(Recorded):
    """One test by LoadGen, in its own figures where nothing else is said. Latencies of `server` count from when a query
    was scheduled to arrive; those of `multi` are of whole queries."""

    scenario: Scenario
    purpose: Purpose = "scenario"
    round: Count = 0
    """Of pairs."""
    rate: Rate | None = None
    """Queries per second: offered in `server`, expected in `offline`."""
    valid: bool
    why: Annotated[str, Field(max_length=1000)] = ""
    """Why LoadGen calls it INVALID."""
    queries: PositiveCount
    over: Count | None = None
    """Queries of `server` that took longer than the bound."""
    per_s: Rate
    """Images that were answered per second."""
    p50_s: Latency
    p90_s: Latency
    p99_s: Latency
    early_s: Seconds | None = None
    """Early stopping's estimate, an upper bound at 99 % confidence: of p90 in `single`, of p99 in `multi`."""
    own_p50_s: Latency
    """The median by the worker's own clock, from when it got a query until it gave the answer back."""
    wall_s: Latency
    cpu_s: Seconds
    """CPU time of the whole worker process, LoadGen's threads included."""
    calls: Count
    """Of the model: fewer than images where batches were formed."""
    images: Count
    min_queries: Count
    min_s: Seconds
    """The minimal duration that was asked for."""
    seed: Count
    """Of the arrivals and of the choice of images."""
    logs: str
    """The folder of LoadGen's own logs, within the run's."""
    interference: list[Interference] = []


class ServingLaunch(Recorded):
    """What one launch found out about a service."""

    bound_s: Latency
    """That p99 must stay within."""
    loadgen_s: Seconds
    """What LoadGen and its Python interface cost a query, of a system under test that does nothing."""
    queue_s: Seconds
    """The same with the queue and the threads of the service: what is in every latency beside the model."""
    arrival_s: Seconds
    """The median latency of `server` with a system under test that does nothing: how late LoadGen issues queries."""
    threads: PositiveCount
    """Of each session."""
    tests: Annotated[list[LoadTest], Field(max_length=1000)]
    stopped: str
    """Why the search ended."""

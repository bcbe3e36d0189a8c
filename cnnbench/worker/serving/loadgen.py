"""A test by MLCommons' LoadGen, and what its log says of it. It is made as MLPerf's rules say, but for its duration."""

import gc
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import mlperf_loadgen as lg

from cnnbench.errors import WorkerError
from cnnbench.records.serving import IMAGES_OF_MULTI, LoadTest, Scenario
from cnnbench.records.serving_messages import Drive
from cnnbench.worker.serving.batcher import Batcher, Query, Serve

SCENARIOS = {"single": "SingleStream", "multi": "MultiStream", "server": "Server", "offline": "Offline"}
DETAIL = "mlperf_log_detail.txt"
PERCENTILE_SERVER = 0.99
MAX_WHY = 500


def drive(request: Drive, sessions: Sequence[Serve], batch: int, delay_s: float, images: int) -> LoadTest:
    """One test of a scenario on sessions behind a queue, over so many images.

    Without sessions every query is answered where it is issued. Raises WorkerError for a session that fails, and where
    LoadGen says nothing.
    """
    latencies_s: list[float] = []

    def answer(queries: Sequence[Query]) -> None:
        responses = [lg.QuerySampleResponse(query.id, 0, 0) for query in queries]
        now = time.perf_counter()
        latencies_s.extend(now - query.arrived_s for query in queries)
        lg.QuerySamplesComplete(responses)

    batcher = Batcher(sessions, batch, delay_s, answer) if sessions else None

    def issue(samples: list[Any]) -> None:
        now = time.perf_counter()
        queries = [Query(sample.id, sample.index, now) for sample in samples]
        if batcher is None:
            answer(queries)
            return
        for query in queries:
            batcher.put(query)

    try:
        wall_s, cpu_s = _run(request, issue, images)
    finally:
        if batcher is not None:
            batcher.close()
    if batcher is not None and batcher.error is not None:
        error = batcher.error
        raise WorkerError(f"a call under load failed: {type(error).__name__}: {' '.join(str(error).split())}"[:500])
    said = read_log(Path(request.folder) / DETAIL)
    prefix = (
        "result_{}_percentile_per_query_latency_ns"
        if request.scenario == "multi"
        else ("result_{}_percentile_latency_ns")
    )
    percentiles = {f"p{p}_s": said[prefix.format(f"{p}.00")] / 1e9 for p in (50, 90, 99)}
    early = {"single": "early_stopping_latency_ss", "multi": "early_stopping_latency_ms"}.get(request.scenario)
    return LoadTest(
        scenario=request.scenario,
        rate=request.rate,
        valid=said["result_validity"] == "VALID",
        why=str(said.get("result_invalid_reason", "")).strip()[:MAX_WHY],
        queries=said["result_query_count"],
        over=said.get("result_overlatency_query_count"),
        per_s=_per_s(request.scenario, said),
        **percentiles,
        early_s=(said.get(early, 0) / 1e9 or None) if early else None,
        own_p50_s=median(latencies_s),
        wall_s=wall_s,
        cpu_s=cpu_s,
        calls=len(batcher.formed) if batcher is not None else 0,
        images=len(latencies_s),
        min_queries=request.min_queries,
        min_s=request.min_s,
        seed=request.seed,
        logs=request.folder,
    )


def _run(request: Drive, issue: Callable[[list[Any]], None], images: int) -> tuple[float, float]:
    """Seconds of the test, and CPU seconds of this process."""
    Path(request.folder).mkdir(parents=True, exist_ok=True)
    logs = lg.LogSettings()
    outputs = lg.LogOutputSettings()
    outputs.outdir, outputs.copy_summary_to_stdout = request.folder, False
    logs.log_output, logs.enable_trace = outputs, False
    settings = _settings(request)
    sut = lg.ConstructSUT(issue, lambda: None)
    library = lg.ConstructQSL(images, images, lambda _: None, lambda _: None)
    gc.collect()
    gc.disable()
    try:
        start, cpu_start = time.perf_counter(), time.process_time()
        lg.StartTestWithLogSettings(sut, library, settings, logs, "")  # no file of settings beside ours
        return time.perf_counter() - start, time.process_time() - cpu_start
    finally:
        gc.enable()
        lg.DestroyQSL(library)
        lg.DestroySUT(sut)


def _settings(request: Drive) -> Any:
    settings = lg.TestSettings()
    settings.mode = lg.TestMode.PerformanceOnly
    settings.scenario = getattr(lg.TestScenario, SCENARIOS[request.scenario])
    settings.min_duration_ms, settings.min_query_count = math.ceil(1e3 * request.min_s), request.min_queries
    settings.max_duration_ms = math.ceil(1e3 * request.max_s)
    settings.qsl_rng_seed = settings.sample_index_rng_seed = settings.schedule_rng_seed = request.seed
    # Queries are made before the test, from these: twice as many as are expected.
    settings.single_stream_expected_latency_ns = max(1, int(5e8 * request.expected_s))
    settings.multi_stream_expected_latency_ns = max(1, int(5e8 * request.expected_s))
    settings.multi_stream_samples_per_query = IMAGES_OF_MULTI
    if request.scenario == "server":
        settings.server_target_qps = request.rate
        settings.server_target_latency_ns = int(1e9 * (request.bound_s or 0.0))
        settings.server_target_latency_percentile = PERCENTILE_SERVER
        settings.server_max_async_queries = request.max_waiting
    if request.scenario == "offline":
        settings.offline_expected_qps = request.rate
    return settings


def _per_s(scenario: Scenario, said: Mapping[str, Any]) -> float:
    """Images per second by LoadGen's own clock, without the start and the end of the test."""
    if scenario == "multi":
        return 1e9 * IMAGES_OF_MULTI / max(float(said["result_mean_query_latency_ns"]), 1.0)
    keys = {
        "single": "result_qps_with_loadgen_overhead",
        "server": "result_completed_samples_per_sec",
        "offline": "result_samples_per_second",
    }
    return float(said[keys[scenario]])


def read_log(file: Path) -> dict[str, Any]:
    """What LoadGen's detailed log says, by its own keys. Raises WorkerError where it has no result."""
    said: dict[str, Any] = {}
    for line in file.read_text(errors="replace").splitlines() if file.exists() else ():
        if line.startswith(":::MLLOG "):
            entry = json.loads(line.removeprefix(":::MLLOG "))
            said[entry["key"]] = entry["value"]
    if "result_validity" not in said:
        raise WorkerError(f"{file}: expected LoadGen's log with a result; got {said.get('error_runtime', 'none')}")
    return said

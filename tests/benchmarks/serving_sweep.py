"""Is the configuration that `cnnbench tune-serving` finds the best of all, and how much sooner is it found?

    python -m tests.benchmarks.serving_sweep [mobilenet_v2 resnet18] [--p99 100ms]

For each model in ONNX Runtime: the highest rate of every configuration, which takes as long as it takes; the search
within a fifth of this time; then both winners again, in turn with the same arrivals, three times.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from cnnbench.analysis import tuning
from cnnbench.records import artifact
from cnnbench.runner import machine
from cnnbench.runner.artifacts import Artifacts
from cnnbench.runner.tasks.tune_serving import Finalist, Search, TuneRequest
from cnnbench.suite.case import Case, ModelSpec
from cnnbench.suite.parse import parse_duration

NO_END_S = 1e6
SHARE = 1 / 5
"""Of the sweep's time, what the search may take."""
LIMIT_S = 600.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=["mobilenet_v2", "resnet18"])
    parser.add_argument("--p99", type=parse_duration, default=0.1)
    options = parser.parse_args()
    print(
        "| model | search s | sweep s | its winner /s | the sweep's /s | again: search's / sweep's | configurations |"
    )
    print("|---|---|---|---|---|---|---|")
    for model in options.models:
        with tempfile.TemporaryDirectory(prefix="cnnbench-") as folder:
            print(row(ModelSpec.checked(model, None, None), options.p99, Path(folder)), flush=True)


def row(spec: ModelSpec, bound_s: float, folder: Path) -> str:
    """Of one model."""
    case = Case(spec=spec, workload="serving", runtime="ort", batch=1)
    with Artifacts(folder / "logs", LIMIT_S) as artifacts:
        facts = artifacts.get(spec)

    def timed(name: str, own_budget_s: float, step: Callable[[Search], list[Finalist]]) -> tuple[list[Finalist], float]:
        request = TuneRequest([case], bound_s, None, own_budget_s, LIMIT_S, folder / name)
        request.open(resume=False)
        start = time.monotonic()
        with ExitStack() as stack:
            search = Search(request, case, artifact.folder_of(spec, facts.key), lambda *_: None, stack)
            return step(search), time.monotonic() - start

    capacity = rate = 0.0

    def sweep(search: Search) -> list[Finalist]:
        nonlocal capacity, rate
        offline = search.offline(tuning.grid(machine.usable_threads(), bound_s))
        capacity = max(test.per_s for test in offline.values())
        rate = tuning.FIRST_SHARE * capacity
        return search.finals(list(offline), capacity, rate, rounds=1)

    swept, sweep_s = timed("sweep", NO_END_S, sweep)
    found, search_s = timed("search", SHARE * sweep_s, lambda search: search.run().finalists)
    winners = list(dict.fromkeys([found[0].knobs, swept[0].knobs]))
    again, _ = timed("again", NO_END_S, lambda search: search.finals(winners, capacity, swept[0].valid or rate))
    rates = {each.knobs: each.valid or 0.0 for each in again}
    both = " / ".join(f"{rates[each[0].knobs]:.4g}" for each in (found, swept))
    names = "; ".join(map(str, winners))
    figures = f"{found[0].valid or 0.0:.4g} | {swept[0].valid or 0.0:.4g} | {both}"
    return f"| {spec.label} | {search_s:.0f} | {sweep_s:.0f} | {figures} | {names} |"


if __name__ == "__main__":
    main()

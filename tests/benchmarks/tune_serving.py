"""Whether tuning finds what an exhaustive sweep finds, and in which part of its time.

    python -m tests.benchmarks.tune_serving SUITE --p99 100ms --only 'mobilenet_v2/*/ort/*' --out DIR

Sweeps all configurations of one case (a search of the highest rate of each), tunes with a fifth of the time that this
took, and then measures both winners again, side by side in one run. Goes on where it was stopped.
"""

import argparse
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import yaml
from rich.console import Console

from cnnbench.analysis import tuning
from cnnbench.analysis.serving import service_of
from cnnbench.analysis.tuning import Knobs
from cnnbench.cli.common import select_cases
from cnnbench.records import artifact
from cnnbench.records.run_folder import read_run
from cnnbench.report.serving import rate_text
from cnnbench.report.terminal import Progress
from cnnbench.report.tuned import suite_of_tuned
from cnnbench.runner import machine
from cnnbench.runner.artifacts import Artifacts
from cnnbench.runner.run import run
from cnnbench.runner.tasks.tune_serving import Finalist, Search, Tuned, TuneRequest, targets, tune
from cnnbench.suite.case import Case
from cnnbench.suite.load import load_suite
from cnnbench.suite.parse import parse_duration

SHARE = 0.2
DAY_S = 86_400.0


def swept(case: Case, bound_s: float, folder: Path) -> tuple[list[Finalist], float]:
    """The highest rate of every configuration, the best first, and the seconds that all tests took."""
    request = TuneRequest([case], bound_s, None, DAY_S, 600.0, folder)
    request.open(resume=True)
    start = time.monotonic()
    with Artifacts(folder / "logs") as artifacts, ExitStack() as stack:
        place = artifact.folder_of(case.spec, artifacts.get(case.spec).key)
        search = Search(request, case, place, lambda what, left_s: print(what, flush=True), stack)
        offline = search.offline(tuning.grid(machine.usable_threads(), bound_s))
        capacity = max(test.per_s for test in offline.values())
        found = search.finals(list(offline), capacity, tuning.FIRST_SHARE * capacity)
    return found, search.spent_before_s + time.monotonic() - start


def again(case: Case, bound_s: float, knobs: dict[str, Knobs], folder: Path, budget_s: float) -> None:
    """Both winners in one run, launched three times as the time allows."""
    known = [
        Tuned(case, bound_s, [Finalist(each, None, None, None)], [], 0.0, 0, {}, 0.0)
        for each in dict.fromkeys(knobs.values())
    ]
    content = suite_of_tuned(known, budget_s)
    content["defaults"]["case_budget"] = f"{round(budget_s / 10)}s"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "winners.yaml"
    file.write_text(yaml.safe_dump(content))
    suite = load_suite(str(file))
    watch = partial(Progress, Console())
    run(suite, suite.cases, folder / "run", budget_s=budget_s, resume=(folder / "run").exists(), watch=watch)
    for id_, record in read_run(folder / "run").records.items():
        if (service := service_of(record.launches)) is not None:
            print(f"{id_}: {rate_text(service)} queries/s, in {service.confirmed} launches; {record.status}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite")
    parser.add_argument("--p99", type=parse_duration, required=True)
    parser.add_argument("--only", action="append")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--again", type=parse_duration, default=1200.0, help="time for both winners")
    options = parser.parse_args()
    (case,) = targets(select_cases(options.suite, options.only)[1])
    found, sweep_s = swept(case, options.p99, options.out / "sweep")
    print(f"sweep: {len(found)} configurations, {sweep_s:.0f} s; best: {found[0].knobs}: {found[0].valid} queries/s")
    request = TuneRequest([case], options.p99, None, SHARE * sweep_s, 600.0, options.out / "tune")
    request.open(resume=(options.out / "tune").exists())
    start = time.monotonic()
    (tuned,) = tune(request, lambda what, left_s: None)
    winner = tuned.finalists[0]
    took_s = time.monotonic() - start
    print(f"tune: {took_s:.0f} s ({took_s / sweep_s:.0%} of the sweep); {winner.knobs}: {winner.valid} queries/s")
    again(case, options.p99, {"sweep": found[0].knobs, "tune": winner.knobs}, options.out, options.again)


if __name__ == "__main__":
    main()

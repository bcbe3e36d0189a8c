"""What interleaving is worth: an A/A comparison against its own claim, and the spread of a ratio with and without it.

    python -m tests.benchmarks.interleaving aa [--model mobilenet_v2] [--runtime ort] [--repeats 40] [--launches 3]
    python -m tests.benchmarks.interleaving spread [--model mobilenet_v2] [--repeats 10]
    python -m tests.benchmarks.interleaving overhead
    python -m tests.benchmarks.interleaving forked [--model mobilenet_v2] [--repeats 10]

`aa` compares a case with itself, launch after launch, and counts how often the 95 % interval of the ratio holds 1.
`spread` measures ONNX Runtime against eager so many times: both alive and in turn, and one after the other; printed is
the standard deviation of the log ratio for each. `overhead` times an empty call in the timing loop. `forked` compares
a worker that is forked from a fork server with one that has imported for itself.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from math import exp, log
from pathlib import Path

from cnnbench.analysis.stats import launch_ratio_estimate, time_estimate
from cnnbench.networks import registry
from cnnbench.records import artifact
from cnnbench.records.record import Launch
from cnnbench.runner import machine
from cnnbench.runner.artifacts import Artifacts
from cnnbench.runner.fork_server import ForkServer, ForkServers, Lineage
from cnnbench.runner.interleave import Allowance, GroupMember, WorkerParticipant, measure_group, measure_interleaved
from cnnbench.runner.worker_process import Worker
from cnnbench.suite.case import Case, ModelSpec

LIMIT_S = 300.0


def artifact_of(model: str, logs: Path) -> tuple[ModelSpec, Path]:
    """The model at its own size, and its artifact's folder."""
    architecture = registry.get(model)
    spec = ModelSpec(model=model, image_size=architecture.image_size, classes=architecture.classes)
    with Artifacts(logs) as artifacts:
        return spec, artifact.folder_of(spec, artifacts.get(spec).key)


def group_measured(cases: Sequence[Case], folder: Path, logs: Path, budget_s: float, seed: int) -> list[Launch]:
    """One comparison group: a launch of each case."""
    threads = machine.usable_threads()
    with ForkServers(logs, LIMIT_S) as servers:
        members = [
            GroupMember(
                case,
                folder,
                threads,
                servers.starter(case.runtime, Lineage(threads)),
                logs / f"{artifact.file_name(case.id)}.log",
            )
            for case in cases
        ]
        outcomes = measure_group(members, Allowance(budget_s), seed=seed)
    for outcome in outcomes:
        assert outcome.launch is not None, outcome.error
    return [outcome.launch for outcome in outcomes if outcome.launch is not None]


def same_rounds(first: Launch, second: Launch) -> tuple[list[list[float]], list[list[float]]]:
    """Times of both in the rounds that neither was disturbed in; in all, where those are too few."""
    clean = [
        index
        for index, blocks in enumerate(zip(first.blocks, second.blocks, strict=False))
        if not any(block.interference for block in blocks)
    ]
    chosen = clean if len(clean) >= 6 else list(range(min(len(first.blocks), len(second.blocks))))
    return (
        [[total / first.calls_per_sample for total in first.blocks[index].totals_s()] for index in chosen],
        [[total / second.calls_per_sample for total in second.blocks[index].totals_s()] for index in chosen],
    )


def aa(model: str, runtime: str, repeats: int, launches: int, budget_s: float, logs: Path) -> None:
    """How often the interval of a case against itself holds 1."""
    spec, folder = artifact_of(model, logs)
    case = Case(spec=spec, workload="inference", runtime=runtime, batch=1)
    ratios, inside = [], 0
    for repeat in range(repeats):
        groups = [
            same_rounds(*group_measured([case, case], folder, logs, budget_s, repeat * launches + launch))
            for launch in range(launches)
        ]
        estimate = launch_ratio_estimate([first for first, _ in groups], [second for _, second in groups])
        assert estimate.low is not None
        assert estimate.high is not None
        inside += estimate.low <= 1 <= estimate.high
        ratios.append(estimate.value)
        print(f"{repeat + 1} of {repeats}: {estimate.value:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]", flush=True)
    print(f"{model}, {runtime} against itself, {launches} launches of each: ", end="")
    print(f"the 95 % interval held 1 in {inside} of {repeats} comparisons")
    print(f"standard deviation of the log ratio {statistics.stdev(map(log, ratios)):.2%}, ", end="")
    print(f"geometric mean {exp(statistics.fmean(map(log, ratios))):.4f}")


def spread(model: str, repeats: int, budget_s: float, logs: Path) -> None:
    """The spread of eager / ort over repeats, interleaved and one after the other."""
    spec, folder = artifact_of(model, logs)
    eager, ort = (Case(spec=spec, workload="inference", runtime=runtime, batch=1) for runtime in ("eager", "ort"))
    found: dict[str, list[float]] = {"interleaved": [], "one after the other": []}
    for repeat in range(repeats):
        order = list(found)
        random.Random(repeat).shuffle(order)
        for way in order:
            if way == "interleaved":
                own, other = same_rounds(*group_measured([eager, ort], folder, logs, budget_s, repeat))
                ratio = launch_ratio_estimate([own], [other]).value
            else:
                alone = [group_measured([case], folder, logs, budget_s, repeat)[0] for case in (eager, ort)]
                first, second = (time_estimate(launch.call_blocks()).value for launch in alone)
                ratio = first / second
            found[way].append(ratio)
            print(f"{repeat + 1} of {repeats}: {way} {ratio:.3f}", flush=True)
    for way, ratios in found.items():
        logs_of = [log(ratio) for ratio in ratios]
        print(
            f"{model}, eager / ort, {way}: {exp(statistics.fmean(logs_of)):.3f}, spread {statistics.stdev(logs_of):.2%}"
        )


def warm_participant(worker: Worker, case: Case, folder: Path, stack: ExitStack) -> WorkerParticipant:
    """A worker with its case open and warm."""
    member = GroupMember(case, folder, machine.usable_threads(), lambda log: worker, worker.log)
    participant = WorkerParticipant(member)
    participant.start(stack)
    participant.load()
    participant.open(Allowance(1.0, warmup_s=1.5))
    return participant


def forked(model: str, repeats: int, budget_s: float, logs: Path) -> None:
    """The time of a call in a forked worker over that in one that has imported for itself."""
    spec, folder = artifact_of(model, logs)
    case = Case(spec=spec, workload="inference", runtime="eager", batch=1)
    threads, ratios = machine.usable_threads(), []
    for repeat in range(repeats):
        with (
            ForkServer(logs / "template.log", threads, LIMIT_S) as fork_server,
            fork_server.start(logs / "forked.log") as forked_worker,
            Worker(logs / "fresh.log", threads, LIMIT_S) as fresh_worker,
            ExitStack() as stack,
        ):
            pair = [warm_participant(worker, case, folder, stack) for worker in (forked_worker, fresh_worker)]
            results = measure_interleaved(pair, budget_s, random.Random(repeat))
            own, other = ([block.totals_s() for block in result.blocks] for result in results)
            estimate = launch_ratio_estimate([own], [other])
        ratios.append(estimate.value)
        print(f"{repeat + 1} of {repeats}: {estimate.value:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]", flush=True)
    logs_of = [log(ratio) for ratio in ratios]
    error = statistics.stdev(logs_of) / len(logs_of) ** 0.5
    print(f"{model}, eager, forked / fresh: {exp(statistics.fmean(logs_of)):.4f}, standard error {error:.2%}")


def overhead() -> None:
    """Seconds that the timing loop adds to a call."""
    from cnnbench.worker.timing.measure import HostStopwatch, time_block

    def nothing() -> None:
        return

    def per_call(calls: int, phases: dict[str, Callable[[], None]]) -> float:
        start = time.perf_counter()
        for _ in range(2000):
            time_block(phases, calls, HostStopwatch())
        return (time.perf_counter() - start) / 2000 / calls

    one = {"forward": nothing}
    three = {"forward": nothing, "backward": nothing, "optimizer": nothing}
    for what, calls, phases in (("single calls", 1, one), ("blocks of 100 calls", 100, one), ("steps", 1, three)):
        medians = [per_call(calls, phases) for _ in range(7)]
        print(f"{what}: {statistics.median(medians) * 1e9:,.0f} ns a call, of a function that does nothing")


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["aa", "spread", "overhead", "forked"])
    parser.add_argument("--model", default="mobilenet_v2")
    parser.add_argument("--runtime", default="ort", help="what `aa` compares with itself")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--launches", type=int, default=3, help="of each in a comparison of `aa`")
    parser.add_argument("--budget", type=float, default=2.0, help="seconds of measuring for each case")
    words = parser.parse_args()
    if words.what == "overhead":
        overhead()
        return
    with tempfile.TemporaryDirectory(prefix="cnnbench-") as folder:
        if words.what == "aa":
            aa(words.model, words.runtime, words.repeats or 40, words.launches, words.budget, Path(folder))
        elif words.what == "forked":
            forked(words.model, words.repeats or 10, words.budget, Path(folder))
        else:
            spread(words.model, words.repeats or 10, words.budget, Path(folder))


if __name__ == "__main__":
    main()

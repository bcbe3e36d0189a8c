"""What a fleet is worth on this machine: nothing lost when nodes and drivers are killed, and what Ray and it cost.

    python -m tests.benchmarks.fleet kills [--times 20] [--seed 0]
    python -m tests.benchmarks.fleet idle [--rounds 40]
    python -m tests.benchmarks.fleet cost [--machines 50] [--cases 200]

`kills` has three fake nodes on this machine measure a suite with scripted workers while nodes, and then drivers, are
killed at random moments, until so many have been; what dies after the end does not count. After each kill nothing that
had arrived may be gone; a command that leaves cases out must say so and end with 3; each round ends with a whole run of
every machine, with each case once, by the same command if need be. `idle` times
ResNet-18's forward pass while Ray's idle processes run and while they are stopped, by turns. `cost` feeds the driver
synthetic records, of 13 blocks of 20 samples, and gives its seconds and memory for each record and machine.
"""

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from math import exp, log, sqrt
from pathlib import Path

from tests.fake_cluster import FakeCluster


def kills(times: int, seed: int) -> None:
    """Print each round."""
    from tests.conftest import write_suite
    from tests.test_fleet_ray import SUITE, kill_driver, kill_nodes, scripted_command

    drawn = random.Random(seed)
    each: list[tuple[str, Callable[[FakeCluster, Path, int, random.Random], int]]] = [
        ("nodes", kill_nodes),
        ("drivers", kill_driver),
    ]
    for what, kill in each:
        done = 0
        while done < times:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                write_suite(folder, SUITE)
                with FakeCluster(folder, {"a": {}, "b": {}, "c": {}}, scripted_command(folder)) as cluster:
                    start = time.monotonic()
                    killed = kill(cluster, folder, min(5, times - done), drawn)
            done += killed
            took_s = time.monotonic() - start
            print(f"{what}: {killed} killed, {done} of {times}; whole after {took_s:.0f} s", flush=True)


def idle(rounds: int) -> None:
    """Print the ratio with its 95 % interval."""
    import psutil
    import torch
    from scipy.stats import t
    from torchvision.models import resnet18

    torch.set_num_threads(os.cpu_count() or 1)
    model, images = resnet18().eval(), torch.rand(8, 3, 224, 224)

    def block() -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            for _ in range(5):
                model(images)
        return time.perf_counter() - start

    logs: list[float] = []
    with tempfile.TemporaryDirectory() as name, FakeCluster(Path(name), {"a": {}}) as cluster:
        time.sleep(20)
        processes = psutil.Process(cluster.pid).children(recursive=True)
        for _ in range(3):
            block()
        drawn = random.Random(0)
        for _ in range(rounds):
            seconds = {}
            for runs in drawn.sample([True, False], 2):
                for each in processes:
                    each.resume() if runs else each.suspend()
                time.sleep(0.2)
                seconds[runs] = block()
            logs.append(log(seconds[True] / seconds[False]))
        for each in processes:
            each.resume()
    half = float(t.ppf(0.975, rounds - 1)) * statistics.stdev(logs) / sqrt(rounds)
    mean = statistics.fmean(logs)
    ratio, low, high = (exp(each) for each in (mean, mean - half, mean + half))
    print(f"{len(processes)} idle processes of Ray: time x{ratio:.4f} [{low:.4f}, {high:.4f}]")


def cost(machines: int, cases: int) -> None:
    """Print seconds and memory."""
    import resource

    from cnnbench.fleet.driver import Folder, run_fleet
    from cnnbench.suite.load import load_suite
    from tests.conftest import write_suite
    from tests.records import record
    from tests.test_fleet import HELLO, WELL, Notes, Says, Scripted, wrote

    with tempfile.TemporaryDirectory() as name:
        suite = load_suite(
            write_suite(
                Path(name),
                "models: [lenet5]\ndefaults: {workloads: [inference], runtimes: [eager], classes: 10, batches: "
                f"{list(range(1, cases + 1))}}}\n",
            )
        )
        said: list[Says] = [HELLO, *wrote(*(record(case, [0.01] * 13, samples=20) for case in suite.cases)), WELL]
        nodes = Scripted(**{f"m{number}": [said] for number in range(machines)})
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        with Folder(Path(name) / "out", suite) as folder:
            ending = run_fleet(nodes, folder, suite.cases, [], Notes())
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert all(row.is_complete for row in ending.rows)
    print(
        f"{machines} machines with {cases} cases: {seconds:.1f} s, {1e3 * seconds / machines / cases:.2f} ms a record, "
        f"{seconds / machines:.2f} s a machine; {peak / 2**20:.2f} GiB of memory at most, which is "
        f"{(peak - before) * 1.024 / machines / cases:.2f} kB a record more than before"
    )


def main() -> None:
    """Do what is asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["kills", "idle", "cost"])
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--machines", type=int, default=50)
    parser.add_argument("--cases", type=int, default=200)
    asked = parser.parse_args()
    match asked.what:
        case "kills":
            kills(asked.times, asked.seed)
        case "idle":
            idle(asked.rounds)
        case _:
            cost(asked.machines, asked.cases)


if __name__ == "__main__":
    main()

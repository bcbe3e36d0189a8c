"""What tells a change of time from noise: methods side by side on simulated histories of 300 commits.

    python -m tests.benchmarks.history_steps [--histories 12] [--levels quiet,typical,bad] [--path DIR ...]

Histories have no, one or three changes of 3 to 10 %. Each method sees the history grow, at each tenth commit and 0, 1,
2, 5, 10, 20 and 40 commits after each change. What it tells within 5 commits of a change, in its direction, counts as
found; whatever else it tells, once for each place, is a false alarm. `--path` are folders with ruptures and
apache-otava (`pip download --no-deps`, unpacked): the latter cannot be installed beside the present numpy.
"""

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np
from scipy.stats import mannwhitneyu
from tabulate import tabulate

from cnnbench.analysis.chain import Edge, Floats, chained_index, consistent_steps, find_steps_in_series, moderated
from tests.histories import Gated, SimulatedHistory, changes, simulate

COMMITS, NEAR = 300, 5
DELAYS = (0, 1, 2, 5, 10, 20, 40)
Told = list[tuple[int, float]]
"""Commits with which a change is said to have come, and the sign of it."""


@dataclass
class Score:
    """Of one method on all histories of one level of noise."""

    commits: int = 0
    steps: int = 0
    alarms: int = 0
    delays: list[int] = field(default_factory=list)

    def row(self) -> list[str]:
        alarms = f"{1000 * self.alarms / self.commits:.1f}"
        delay = f"{median(self.delays):.0f}" if self.delays else "–"
        return [alarms, f"{len(self.delays) / max(self.steps, 1):.0%}", delay]


def edges_of(gates: Sequence[Gated]) -> tuple[list[Edge], float]:
    """With moderated variances, and their degrees of freedom."""
    variances, prior = moderated([gate.pair_sd**2 for gate in gates], [gate.pairs - 1 for gate in gates])
    degrees = prior + median(gate.pairs - 1 for gate in gates)
    return [gate.edge(variance) for gate, variance in zip(gates, variances, strict=True)], degrees


def steps_of_gates(history: SimulatedHistory, seen: int, least: float) -> Told:
    edges, degrees = edges_of([gate for gate in history.gates if gate.head < seen])
    return [(step.at, step.log) for step in consistent_steps(edges, seen, least, degrees)[0]]


def index_of(history: SimulatedHistory, seen: int) -> Floats:
    return chained_index(edges_of([gate for gate in history.gates if gate.head < seen])[0], seen).logs


def medians(history: SimulatedHistory, seen: int) -> Floats:
    return np.log([np.median(run) for run in history.runs[:seen]])


def verdicts(history: SimulatedHistory, seen: int) -> Told:
    return [
        (gate.head, 1.0 if gate.verdict == "slower" else -1.0)
        for gate in history.gates
        if gate.head < seen and gate.base == gate.head - 1 and gate.verdict in ("slower", "faster")
    ]


def threshold(ratio: float) -> Callable[[SimulatedHistory, int], Told]:
    """github-action-benchmark's: a run's mean over that of the run before it; it tells slowdowns alone."""

    def told(history: SimulatedHistory, seen: int) -> Told:
        means = [float(np.mean(run)) for run in history.runs[:seen]]
        return [(place, 1.0) for place in range(1, seen) if means[place] > ratio * means[place - 1]]

    return told


def mann_whitney(history: SimulatedHistory, seen: int) -> Told:
    """All samples of a run against those of the run before, at 0.2 % as asv has it."""
    runs = history.runs[:seen]
    return [
        (place, math.copysign(1.0, np.median(runs[place]) - np.median(runs[place - 1])))
        for place in range(1, seen)
        if mannwhitneyu(runs[place], runs[place - 1]).pvalue < 0.002
    ]


def ruptures_on(series: Callable[[SimulatedHistory, int], Floats], factor: float) -> Callable[..., Told]:
    """Its optimal partition by least squares; the penalty is `factor` times log n times the variance of the noise."""
    import ruptures

    def told(history: SimulatedHistory, seen: int) -> Told:
        logs = series(history, seen)
        noise = float(np.median(np.abs(np.diff(logs)))) / 0.6745 / math.sqrt(2)
        penalty = factor * math.log(seen) * noise**2
        ends = ruptures.KernelCPD(kernel="linear", min_size=2).fit(logs[:, None]).predict(pen=penalty)
        places = [0, *ends]
        means = [float(logs[start:end].mean()) for start, end in zip(places, ends, strict=False)]
        return [(int(end), after - before) for end, before, after in zip(ends, means, means[1:], strict=False)]

    return told


def otava_on(series: Callable[[SimulatedHistory, int], Floats]) -> Callable[..., Told]:
    """With its own settings: windows of 50, p below 0.001."""
    from otava.analysis import compute_change_points

    def told(history: SimulatedHistory, seen: int) -> Told:
        found, _ = compute_change_points(np.exp(series(history, seen)).tolist())
        return [(point.index, point.stats.mean_2 - point.stats.mean_1) for point in found]

    return told


def methods() -> Iterator[tuple[str, Callable[[SimulatedHistory, int], Told]]]:
    yield "gates: steps in the pairs, 99 %", lambda history, seen: steps_of_gates(history, seen, 0.99)
    yield "gates: steps in the pairs, 90 %", lambda history, seen: steps_of_gates(history, seen, 0.9)
    yield "gates: their own verdicts", verdicts
    yield "gates: ruptures on the index, 2 log n", ruptures_on(index_of, 2)
    yield "gates: ruptures on the index, 20 log n", ruptures_on(index_of, 20)
    yield "gates: otava on the index", otava_on(index_of)
    yield (
        "runs: steps in the series, 99 %",
        lambda history, seen: [
            (step.at, step.log) for step in find_steps_in_series([float(log) for log in medians(history, seen)])
        ],
    )
    yield "runs: ruptures, 2 log n", ruptures_on(medians, 2)
    yield "runs: ruptures, 20 log n", ruptures_on(medians, 20)
    yield "runs: otava", otava_on(medians)
    yield "runs: github-action-benchmark, 200 %", MEAN_200
    yield "runs: the same, 110 %", MEAN_110
    yield "runs: Mann-Whitney, 0.2 %", mann_whitney


MEAN_200, MEAN_110 = threshold(2.0), threshold(1.1)
AT_ONCE = (verdicts, MEAN_200, MEAN_110, mann_whitney)
"""Methods that judge each commit when it is measured and never again."""


def judge(score: Score, history: SimulatedHistory, method: Callable[[SimulatedHistory, int], Told]) -> None:
    grown = {*range(10, COMMITS + 1, 10), *(step + 1 + delay for step in history.steps for delay in DELAYS)}
    looks = {COMMITS} if method in AT_ONCE else grown
    found: dict[int, int] = {}
    false: list[int] = []
    for seen in sorted(look for look in looks if look <= COMMITS):
        for at, sign in method(history, seen):
            near = [
                step
                for step, size in history.steps.items()
                if abs(step - at) <= NEAR and size * sign > 0 and step < seen
            ]
            for step in near:
                found.setdefault(step, 0 if method in AT_ONCE else seen - 1 - step)
            if not near and all(abs(at - other) > NEAR for other in false):
                false.append(at)
    score.commits += COMMITS
    score.steps += len(history.steps)
    score.alarms += len(false)
    score.delays += found.values()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--histories", type=int, default=12, help="of each number of changes")
    parser.add_argument("--levels", default="quiet,typical,bad")
    parser.add_argument("--path", action="append", default=[])
    options = parser.parse_args()
    sys.path[:0] = options.path
    levels = options.levels.split(",")
    scores: dict[str, dict[str, Score]] = defaultdict(lambda: {level: Score() for level in levels})
    for level in levels:
        for number in range(3 * options.histories):
            rng = np.random.default_rng(1000 + number)
            history = simulate(level, 1000 + number, COMMITS, changes(rng, COMMITS, (0, 1, 3)[number % 3]))
            for name, method in methods():
                judge(scores[name][level], history, method)
            print(level, number, flush=True, file=sys.stderr)
    headings = ["", *(f"{level}: {what}" for level in levels for what in ("alarms", "recall", "delay"))]
    rows = [[name, *(cell for level in levels for cell in by_level[level].row())] for name, by_level in scores.items()]
    print(tabulate(rows, headings, "pipe", disable_numparse=True))


if __name__ == "__main__":
    main()

"""What the gate is worth on this machine: false alarms on the same code, and slowdowns that are seen.

    python -m tests.benchmarks.gate aa [--gates 20] [--only GLOB] [--out runs/gate-aa]
    python -m tests.benchmarks.gate seen [--gates 8] [--only GLOB] [--out runs/gate-seen]
    python -m tests.benchmarks.gate kept

Every gate is added to reports/gates.jsonl; `kept` prints the table of docs/gate.md from that file. `aa` runs whole
gates of `suites/gate.yaml` with this environment as base and as head. `seen` runs gates of one case each, whose head
is slowed down by 3, 5 and 10 %, call by call. Both judge the same pairs as other tools do, side by side: a mean more
than 5 % above the other's, one launch each; Mann-Whitney on all samples together; intervals of the means of all
samples together that do not overlap.
"""

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev

from scipy.stats import beta, mannwhitneyu, t

from cnnbench.analysis.paired import Rule
from cnnbench.gate.arms import open_arms
from cnnbench.gate.pairs import Pair
from cnnbench.gate.run import GateRequest, measure_gate, read_pairs
from cnnbench.records import files
from cnnbench.records.environment import Environment
from cnnbench.records.record import Launch
from cnnbench.runner import machine
from cnnbench.suite.case import Case, Frozen
from cnnbench.suite.load import load_suite

SLOWDOWNS = (0.03, 0.05, 0.10)
KEPT = Path(__file__).parents[2] / "reports" / "gates.jsonl"
CONFIDENCE = 0.95


class KeptGate(Frozen):
    """One real gate: where and when, how much head was slowed down on purpose, and its verdicts by case."""

    date: str
    cpu: str
    cores: int
    versions: dict[str, str | None]
    slowdown: float
    seconds: float
    verdicts: dict[str, str]


def keep(about: Environment, slowdown: float, seconds: float, verdicts: dict[str, str]) -> None:
    """Add a gate to the file."""
    machine_, software = about.machine, about.software
    gate = KeptGate(
        date=f"{datetime.now():%Y-%m-%d}",
        cpu=machine_.cpu,
        cores=machine_.affinity_cores,
        versions={name: software.get(name) for name in ("torch", "onnxruntime", "onnxruntime-gpu")},
        slowdown=slowdown,
        seconds=round(seconds, 1),
        verdicts=verdicts,
    )
    files.append(KEPT, gate.model_dump_json())


def table() -> str:
    """Markdown of all gates that are kept: how many, what they said, and bounds at 95 % (Clopper and Pearson 1934)."""
    gates = [KeptGate.model_validate_json(line) for line in files.read_lines(KEPT)]
    lines = [
        "| head is slower by | gates | cases | called slower | bound at 95 % | or slower-small |",
        "|---" * 6 + "|",
    ]
    for slowdown in sorted({gate.slowdown for gate in gates}):
        chosen = [gate for gate in gates if gate.slowdown == slowdown]
        verdicts = [verdict for gate in chosen for verdict in gate.verdicts.values()]
        alarms, n = verdicts.count("slower"), len(verdicts)
        if slowdown:
            bound = f"at least {beta.ppf(1 - CONFIDENCE, alarms, n - alarms + 1) if alarms else 0.0:.0%} of cases"
        else:
            with_alarm = sum("slower" in gate.verdicts.values() for gate in chosen)
            below = beta.ppf(CONFIDENCE, with_alarm + 1, len(chosen) - with_alarm) if with_alarm < len(chosen) else 1.0
            bound = f"false alarms in at most {below:.1%} of gates"
        seen = alarms + verdicts.count("slower-small")
        what = f"{slowdown:.0%}" if slowdown else "nothing (A/A)"
        lines.append(f"| {what} | {len(chosen)} | {n} | {alarms} | {bound} | {seen} |")
    return "\n".join(lines)


class Silent:
    """Nobody watches."""

    def doing(self, what: str, left_s: float) -> None:
        """Nothing is said."""


def one_gate(cases: Sequence[Case], folder: Path, seed: int, slowdown: float, budget_s: float) -> dict[str, str]:
    """Verdicts by case, which are kept."""
    suite, began = load_suite("suites/gate.yaml"), time.monotonic()
    with open_arms(".", ".") as (base, head):
        about = machine.environment([machine.usable_threads()], Path.cwd())
        asked = GateRequest(suite, cases, base, head, folder, about, budget_s, seed, slowdown)
        gated = measure_gate(asked, Silent(), Rule())
    verdicts = {judged.comparison.name: str(judged.verdict) for judged in gated.result.cases}
    keep(about, slowdown, time.monotonic() - began, verdicts)
    return verdicts


def samples(launch: Launch) -> list[float]:
    """Seconds per call of every sample of a launch."""
    return [time_s for block in launch.call_blocks() for time_s in block]


def others_alarm(pairs: Sequence[Pair]) -> dict[str, float]:
    """By rule, whether it calls head slower on the pairs of one case; for one launch each, the share of pairs."""
    base = [time_s for pair in pairs for time_s in samples(pair.launches["base"])]
    head = [time_s for pair in pairs for time_s in samples(pair.launches["head"])]
    means = [(fmean(samples(pair.launches["base"])), fmean(samples(pair.launches["head"]))) for pair in pairs]

    def interval(times: Sequence[float]) -> tuple[float, float]:
        half = float(t.ppf(0.975, len(times) - 1)) * stdev(times) / sqrt(len(times))
        return fmean(times) - half, fmean(times) + half

    return {
        "mean:5%, one launch each": fmean(above > 1.05 * below for below, above in means),
        "Mann-Whitney, all samples": float(mannwhitneyu(head, base, alternative="greater").pvalue < 0.05),
        "intervals of means apart": float(interval(head)[0] > interval(base)[1]),
    }


def report(title: str, verdicts: Sequence[str], folders: Sequence[Path], seconds: Sequence[float]) -> None:
    """The gate's verdicts, and what the other rules say of the same pairs."""
    rates: dict[str, list[float]] = {}
    for folder in folders:
        screened = [pair for pair in read_pairs(folder) if pair.stage == "screen" and pair.launches]
        for name in {pair.comparison for pair in screened}:
            for rule, alarm in others_alarm([pair for pair in screened if pair.comparison == name]).items():
                rates.setdefault(rule, []).append(alarm)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in Counter(verdicts).most_common())
    print(f"{title}: {len(verdicts)} cases in {len(folders)} gates, {fmean(seconds):.0f} s each: {counts}")
    print(f"  the gate calls slower: {fmean(verdict == 'slower' for verdict in verdicts):.1%} of cases")
    for rule, alarms in rates.items():
        print(f"  {rule}: {fmean(alarms):.1%}")


def chosen(only: str) -> list[Case]:
    """The cases of the suite whose id fits."""
    return [case for case in load_suite("suites/gate.yaml").cases if case.matches(only)]


def run(title: str, out: Path, jobs: Sequence[tuple[str, Sequence[Case], int, float]]) -> None:
    """Run gates of one kind, and report on all so far after each."""
    verdicts: list[str] = []
    folders: list[Path] = []
    seconds: list[float] = []
    for name, cases, seed, slowdown in jobs:
        began = time.monotonic()
        found = one_gate(cases, out / name, seed, slowdown, budget_s=150.0)
        seconds.append(time.monotonic() - began)
        verdicts += found.values()
        folders.append(out / name)
        print(f"{name}: {found}, {seconds[-1]:.0f} s", flush=True)
    report(title, verdicts, folders, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["aa", "seen", "kept"])
    parser.add_argument("--gates", type=int, default=20)
    parser.add_argument("--only", default="*/inference/ort/*")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--slowdown", type=float, action="append", help="a share; 0.03, 0.05 and 0.1 if not given")
    options = parser.parse_args()
    if options.what == "kept":
        print(table())
        return
    cases = chosen(options.only)
    out = options.out or Path("runs") / f"gate-{options.what}-{time.strftime('%Y%m%d-%H%M%S')}"
    if options.what == "aa":
        run("the same code", out, [(f"aa-{seed}", cases, seed, 0.0) for seed in range(options.gates)])
        return
    for slowdown in options.slowdown or SLOWDOWNS:
        jobs = [
            (f"slower-{slowdown:g}-{seed}", [cases[seed % len(cases)]], seed, slowdown) for seed in range(options.gates)
        ]
        run(f"slower by {slowdown:.0%}", out, jobs)


if __name__ == "__main__":
    main()

"""The search for the commit that changed a time: simulated on noisy machines, then real, in a repository of its own."""

import json
import math
import random
import subprocess
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pytest
from scipy.integrate import dblquad
from scipy.stats import t

from cnnbench.analysis.bisection import beliefs, has_changed, is_decided, next_commit, suspects
from cnnbench.errors import InputError, RunFolderError
from cnnbench.gate import bisect as searching
from cnnbench.gate.arms import Arm, open_arms
from cnnbench.gate.bisect import BisectReport, BisectRequest, Search
from cnnbench.gate.diagnose import Explanation
from cnnbench.gate.pairs import Pair
from cnnbench.gate.verdict import ArmComparison, ArmName, Paired
from cnnbench.records import artifact, messages
from cnnbench.records.messages import Described
from cnnbench.runner.git import Commit
from cnnbench.suite.load import load_suite
from tests import scripted
from tests.conftest import Cli, write_suite
from tests.noise import BAD, QUIET, TYPICAL, Machine, Simulated, comparisons
from tests.records import ENVIRONMENT
from tests.scripted import Dies, Says, lenet
from tests.test_git import call

COMMITS = 64
(COMPARISON,) = comparisons(1)


def searched(machine: Machine, seed: int, size: float, broken: Collection[int] = ()) -> tuple[Search, int]:
    """A search over 64 commits of which one, drawn at random, changes the time; and which."""
    culprit = int(np.random.default_rng(seed).integers(1, COMMITS + 1))
    simulated, search = Simulated(machine, seed), Search(COMMITS)
    while (commit := search.next()) is not None:
        search.visits += 1
        assert search.visits < 200
        simulated.slowdowns[COMPARISON.name] = math.log1p(size) * (commit >= culprit)
        measured = 0
        while search.wants_more(commit, measured):
            order: list[ArmName] = ["base", "head"] if measured % 4 else ["head", "base"]
            for each in (order, order[::-1]):
                pair = simulated.measure(COMPARISON, "screen", each, measured, 1.0)
                search.take(commit, Paired((), {}, missing="gone") if commit in broken else pair)
            measured += 2
    return search, culprit


@pytest.mark.parametrize(("machine", "size"), [(QUIET, 0.05), (TYPICAL, 0.05), (TYPICAL, -0.05), (BAD, 0.05)])
def test_the_one_commit_of_64_is_named_in_at_least_19_of_20(machine: Machine, size: float) -> None:
    found = [searched(machine, seed, size) for seed in range(20)]
    named = [search.believed.max() >= 0.99 and search.believed.argmax() + 1 == culprit for search, culprit in found]
    assert sum(named) >= 19
    assert max(search.visits for search, _ in found) <= 40


def test_ends_that_seemed_to_differ_by_chance_are_measured_again_and_then_no_commit_is_named() -> None:
    """Of the same searches without a change, the 22nd sees one at first."""
    search, _ = searched(TYPICAL, 22, 0.0)
    assert search.visits > 1
    assert not has_changed(search.logs[COMMITS])


def test_where_nothing_changed_no_commit_is_named() -> None:
    for seed in range(10):
        search, _ = searched(TYPICAL, seed, 0.0)
        assert not has_changed(search.logs[COMMITS])
        assert list(search.logs) == [COMMITS]
        assert len(search.logs[COMMITS]) == 40


def test_commits_that_cannot_be_measured_are_stepped_over_and_share_the_suspicion() -> None:
    broken = {commit for commit in range(1, COMMITS) if commit % 4}
    search, culprit = searched(TYPICAL, 3, 0.05, broken)
    told = suspects(search.believed)
    assert culprit in [commit for commit, _ in told]
    assert len(told) <= 4  # those between two that can be measured
    assert set(search.unmeasurable) <= broken


def test_beliefs_follow_from_the_pairs_by_hand() -> None:
    even = beliefs(4, {4: [0.05, 0.05], 2: [0.05, 0.05]})
    assert even == pytest.approx([0.5, 0.5, 0, 0], abs=1e-6)
    # Three values: all after the change, or the last about 0. Integrated over change and logarithm of the scale.
    pairs, spread = {2: [0.04, 0.06], 1: [0.01]}, 1.4826 * 0.01
    bounds = (math.log(spread / 8), math.log(spread * 8), 0.05 - 4 * spread, 0.05 + 4 * spread)

    def integral(after: list[float], before: list[float]) -> float:
        def density(change: float, log_scale: float) -> float:
            errors = np.array([*(each - change for each in after), *before])
            return float(np.prod(t.pdf(errors / math.exp(log_scale), 4) / math.exp(log_scale)))

        return float(dblquad(density, *bounds)[0])

    all_after, one_before = integral([0.04, 0.06, 0.01], []), integral([0.04, 0.06], [0.01])
    first = all_after / (all_after + one_before)
    assert beliefs(2, pairs) == pytest.approx([first, 1 - first], rel=0.02)


def test_beliefs_are_the_shares_of_a_sum_over_change_and_scale() -> None:
    """Of three commits: which pairs lie about the change, and which about 0; on a finer grid, in the same bounds."""
    assert beliefs(4, {}) == pytest.approx([0.25] * 4)
    assert beliefs(4, {2: [0.05]}) == pytest.approx([0.25] * 4), "one pair has no spread"
    assert beliefs(2, {2: [0.04, 0.06]}) == pytest.approx([0.5] * 2)
    pairs = {3: [0.03, 0.05, 0.08], 1: [0.01, -0.01], 2: [0.035, 0.01]}
    middle, spread = 0.05, 1.4826 * 0.02
    scales = spread * np.exp(np.linspace(-math.log(8), math.log(8), 120))
    changes = middle + spread * np.linspace(-4, 4, 160)

    def likelihood(commit: int) -> float:
        found = np.ones((160, 120))
        for place, own in pairs.items():
            for log in own:
                errors = (log - changes[:, None] if place >= commit else np.full((160, 1), log)) / scales
                found *= (1 + errors**2 / 4) ** -2.5 / scales
        return float(found.sum())

    found = np.array([likelihood(commit) for commit in (1, 2, 3)])
    assert beliefs(3, pairs) == pytest.approx(found / found.sum(), rel=0.02)
    assert max(found) < 0.8 * found.sum()


def test_single_pairs_that_are_far_off_hide_no_commit() -> None:
    generator = np.random.default_rng(5)
    pairs = {
        c: [*generator.normal(0.1 * (c >= 11), 0.02, 8), generator.choice([-0.6, 0.6])] for c in (16, 8, 12, 10, 11)
    }
    found = beliefs(16, pairs)
    assert found.argmax() + 1 == 11
    assert found.max() > 0.99


def test_ends_differ_from_six_pairs_on_at_one_in_a_thousand() -> None:
    def found(t: float, pairs: int = 6) -> bool:
        """Of pairs to either side of a mean that is so many standard errors from 0."""
        return has_changed([t / math.sqrt(pairs - 1) + side for side in (-1, 1) * (pairs // 2)])

    assert [found(t) for t in (6.0, 6.8, 6.94, 7.9, -6.8, -6.94)] == [False, False, True, True, False, True]  # 6.869
    assert [has_changed([0.1] * pairs) for pairs in (5, 6)] == [False, True]
    assert [has_changed([log] * 6) for log in (0.0, 1.0, -1.0)] == [False, True, True]
    assert [has_changed([0.1, 0.101, 0.102, 0.103, 0.104, *more]) for more in ((), (0.105,))] == [False, True]


@pytest.mark.parametrize(
    ("believed", "unmeasurable", "asked"),
    [
        ([0.0012, 0.5, 0.4988], {2}, 1),
        ([0.0008, 0.5, 0.4992], {2}, None),  # the change lies behind it with all but one in a thousand
        ([0.5, 0.4988, 0.0012], {1}, 2),
        ([0.5, 0.4992, 0.0008], {1}, None),
        ([0.012, 0.988], (), 1),
        ([0.008, 0.992], (), None),
        ([0.5, 0.5], {1}, None),
        ([1.0], (), None),
    ],
)
def test_a_commit_is_asked_only_where_its_answer_is_not_known(
    believed: list[float], unmeasurable: Collection[int], asked: int | None
) -> None:
    assert next_commit(np.array(believed), unmeasurable) == asked


def test_the_side_of_a_commit_is_decided_with_98_of_100() -> None:
    beliefs_of_first = (0.015, 0.025, 0.5, 0.975, 0.985)
    decided = [is_decided(np.array([first, 0.0, 1 - first]), 1) for first in beliefs_of_first]
    assert decided == [True, False, False, False, True]
    assert is_decided(np.array([0.5, 0.485, 0.015]), 2)


def test_a_visit_ends_after_ten_pairs_or_when_the_side_is_decided() -> None:
    search = Search(8, logs={8: [0.1, 0.101, 0.099, 0.1, 0.102, 0.098]})
    assert has_changed(search.logs[8])
    assert [search.wants_more(8, pairs) for pairs in (0, 9, 10)] == [True, True, False]
    assert [search.wants_more(4, pairs) for pairs in (1, 2, 9, 10)] == [True, True, True, False]
    search.logs[4] = [0.0, 0.001, -0.001, 0.0]
    assert is_decided(search.believed, 4)
    assert [search.wants_more(4, pairs) for pairs in (1, 2)] == [True, False]
    few = Search(8, logs={8: [0.01, *[-0.01, 0.01] * 19]})
    assert [few.wants_more(8, 40), few.next()] == [True, 8]
    few.logs[8].append(-0.01)
    assert [few.wants_more(8, 9), few.wants_more(8, 40), few.next()] == [True, False, None]


def test_the_commit_that_halves_the_beliefs_is_next_and_what_is_known_is_not_asked() -> None:
    flat = np.full(8, 1 / 8)
    assert next_commit(flat, ()) == 4
    assert next_commit(flat, {4}) in (3, 5)
    assert next_commit(np.array([0.5, 0.5, 0.0, 0.0]), {1}) is None  # 2 and 3 are known to be after it
    assert next_commit(np.array([0.005, 0.99, 0.005]), ()) is None
    assert suspects(np.array([0.12, 0.81, 0.01, 0.06])) == [(2, 0.81), (1, 0.12), (4, 0.06)]
    assert suspects(np.array([0.008, 0.992])) == [(2, 0.992)]
    assert suspects(np.array([0.985, 0.015])) == [(1, 0.985), (2, 0.015)]


NET = """
import torch


class Net(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = torch.nn.Sequential(*(torch.nn.Conv2d(3 if i == 0 else 16, 16, 3, padding=1) for i in range(DEPTH)))
        self.fc = torch.nn.Linear(16, classes)

    def forward(self, x):
        EXTRA
        return self.fc(self.body(x).mean((2, 3)))


def build(classes=10):
    return Net(classes)
"""
SLOWER = "\n        ".join(["x = x + 0 * torch.cumsum(x.repeat(1, 1, 2, 1), 3)[:, :, :48]"] * 5)


@pytest.fixture
def repository(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of 16 commits after `good`, of which the eleventh makes the model much slower, with the same outputs; the
    eighth, which halves them, does not run."""
    folder = tmp_path / "repository"
    folder.mkdir()
    call(folder, "init", "-q", "-b", "main", ".")
    for number in range(17):
        source = NET.replace("DEPTH", "6").replace("EXTRA", SLOWER if number >= 11 else "pass")
        (folder / "bisected_nets.py").write_text("syntax error" if number == 8 else source + f"# {number}\n")
        call(folder, "add", ".")
        call(folder, "commit", "-qm", f"number {number}")
    call(folder, "tag", "good", "HEAD~16")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.usefixtures("repository")
def test_a_commit_that_slows_a_model_down_is_found_in_a_repository(tmp_path: Path, cli: Cli) -> None:
    suite = write_suite(
        tmp_path,
        "defaults: {workloads: [inference], runtimes: [ort], batches: [1], threads: 1, case_budget: 1.5s}\n"
        "models:\n  - {model: 'bisected_nets:build', image_size: 48}\n",
    )
    words = ("bisect", suite, "--good", "good", "--bad", "HEAD", "--budget", "20m", "--out", str(tmp_path / "search"))
    done = cli(*words)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert "number 11" in done.stdout
    assert "stepped over" in done.stdout
    assert "CumSum: 0 nodes before, 5 with it" in done.stdout
    listed = subprocess.run(["git", "worktree", "list"], check=True, capture_output=True, text=True).stdout
    assert len(listed.splitlines()) == 1


SLOW = messages.Sampled(seconds={"forward": [0.016] * 2})
Searches = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def search(repository: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Searches:
    """`search(words, *script)` searches the 16 commits, with workers that follow a script.

    Each arm stands for a commit: with one thread, which the script makes slow, from the eleventh on, else with two; the
    eighth cannot be run.
    """
    numbers = {call(repository, "rev-parse", f"HEAD~{16 - number}"): number for number in range(17)}

    @contextmanager
    def opened(base: str, head: str) -> Iterator[tuple[Arm, Arm]]:
        if numbers[head] == 8:
            raise InputError("--head: it has a syntax error")
        with open_arms(*(f"threads={1 if numbers[revision] >= 11 else 2}" for revision in (base, head))) as arms:
            yield arms

    monkeypatch.setattr("cnnbench.gate.bisect.open_arms", opened)

    def run(words: str, *script: Says) -> subprocess.CompletedProcess[str]:
        scripted.use(monkeypatch, tmp_path, *script, *lenet())
        suite = write_suite(
            tmp_path,
            "defaults: {workloads: [inference], runtimes: [ort], batches: [1], case_budget: 0.1s}\nmodels: [lenet5]\n",
        )
        done = cli("bisect", suite, "--good", "good", "--out", str(tmp_path / "search"), *words.split())
        assert "Traceback" not in done.stderr
        return done

    return run


def test_a_search_names_the_commit_and_goes_on_from_what_is_kept(search: Searches, tmp_path: Path) -> None:
    slow = Says("sample", SLOW, threads=1)
    done = search("", slow)
    assert done.returncode == 0, done.stderr
    assert "number 11" in done.stdout
    assert "number 8: --head: it has a syntax error" in done.stdout
    assert "1.600 [1.600, 1.600] of its parent's time" in done.stdout
    assert "threads: 2 in base, 1 in head" in done.stdout
    found = json.loads((tmp_path / "search" / "found.json").read_text())
    assert list(found["suspects"]) == [found["found"]]

    refused = search("", slow)
    assert refused.returncode == 2
    assert "it holds this search already; add --resume" in refused.stderr
    refused = search("--bad HEAD~1 --resume", slow)
    assert refused.returncode == 2
    assert "another suite, case or range" in refused.stderr
    again = search("--resume", slow)
    assert again.returncode == 0
    assert json.loads((tmp_path / "search" / "found.json").read_text())["pairs"] == found["pairs"]


def test_a_search_whose_time_is_spent_says_what_it_knows_and_how_to_go_on(search: Searches) -> None:
    slow = Says("sample", SLOW, threads=1)
    done = search("--budget 0.1s", slow)
    assert done.returncode == 3
    assert "--resume" in done.stdout
    assert "number 11" in search("--resume", slow).stdout


def test_where_the_ends_do_not_differ_no_commit_is_named(search: Searches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnnbench.analysis.bisection.MAX_FIRST_PAIRS", 8)
    done = search("")
    assert done.returncode == 3
    assert "no commit is to blame: the two ends do not differ\n" in done.stdout


def test_a_good_commit_that_cannot_be_measured_ends_the_search(search: Searches) -> None:
    done = search("", Says("open", Dies("SIGKILL"), threads=2))
    assert done.returncode == 2
    assert "--good:" in done.stderr
    assert "cannot be measured: base: crashed" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_good_commit_that_cannot_be_opened_ends_the_search(search: Searches, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(base: str, head: str) -> NoReturn:
        raise InputError("--base: it has a syntax error")

    monkeypatch.setattr("cnnbench.gate.bisect.open_arms", opened)
    done = search("")
    assert (done.returncode, done.stderr) == (2, "error: --good: it has a syntax error\n")


@pytest.mark.usefixtures("repository")
def test_what_cannot_be_searched_is_told_in_one_line(tmp_path: Path, cli: Cli) -> None:
    suite = write_suite(tmp_path, "models: [lenet5]\n")
    for words, message in (
        (("--good", "good"), "--only: expected a pattern of one case; got one of"),
        (("--good", "gone", "--only", "lenet5/inference/ort/*b1"), "--good: expected a revision"),
        (("--good", "HEAD", "--bad", "good", "--only", "lenet5/inference/ort/*b1"), "is no first parent of"),
        (("--good", "good", "--only", "lenet5/inference/ort/*b1", "--resume"), "expected --out"),
    ):
        done = cli("bisect", suite, *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1


# --- one search of four commits, with pairs made by hand ---

CHANGED, UNCHANGED = [0.05, 0.0501] * 5, [0.01, -0.01] * 20


def head(value: float) -> Paired:
    return Paired(("base", "head"), {"head": value})


def test_a_commits_pairs_are_kept_unless_it_cannot_be_measured_and_what_base_lacks_is_not_held_against_it() -> None:
    search = Search(4)
    for pair in (head(0.1), head(0.2), Paired((), {}, missing="base: gone"), Paired((), {}, lost="head: a stall")):
        search.take(2, pair)
    assert (search.logs, search.unmeasurable, search.pairs) == ({2: [0.1, 0.2]}, {}, 2)
    for pair in (Paired((), {}, wrong="head: parity"), head(0.3)):
        search.take(2, pair)
    search.take(1, head(0.4))
    assert (search.logs, search.unmeasurable, search.pairs) == ({1: [0.4]}, {2: "head: parity"}, 4)
    assert (Search(4, {4: [0.1, 0.3]}).bad.logs, Search(4, {3: [0.1]}).bad.logs) == ((0.1, 0.3), ())


@pytest.mark.parametrize(
    ("logs", "unmeasurable", "asked"),
    [
        ({}, {}, 4),
        ({4: UNCHANGED[:39]}, {}, 4),
        ({4: UNCHANGED}, {}, None),
        ({4: CHANGED[:5]}, {}, 4),  # six are needed
        ({4: CHANGED[:6]}, {}, 2),
        ({4: CHANGED}, {2: "gone", 3: "gone"}, 1),
        ({4: CHANGED}, {4: "gone"}, None),
        ({4: CHANGED, 2: [0.0, 0.05] * 20}, {}, 2),
        ({4: CHANGED, 2: [0.0, 0.05] * 20 + [0.025]}, {}, 4),  # undecided for so long: the ends are measured again
        ({4: CHANGED * 5, 2: [0.0, 0.05] * 20 + [0.025]}, {}, 2),
        ({4: CHANGED, 2: [0.0, 0.0001] * 2, 3: CHANGED[:4]}, {}, None),
    ],
)
def test_the_bad_commit_is_measured_until_it_differs_and_then_the_one_that_halves_the_beliefs(
    logs: dict[int, list[float]], unmeasurable: dict[int, str], asked: int | None
) -> None:
    assert Search(4, logs, unmeasurable).next() == asked


@pytest.mark.parametrize(
    ("commit", "measured", "logs", "wanted"),
    [
        (4, 10, {}, True),
        (4, 10, {4: UNCHANGED[:38]}, True),
        (4, 10, {4: UNCHANGED}, False),
        (4, 8, {4: UNCHANGED}, True),
        (4, 8, {4: CHANGED}, True),
        (4, 10, {4: CHANGED}, False),
        (2, 0, {4: CHANGED, 2: [0.0] * 4}, True),
        (2, 1, {4: CHANGED, 2: [0.0] * 4}, True),
        (2, 2, {4: CHANGED, 2: [0.0] * 4}, False),
        (2, 2, {4: CHANGED}, True),
        (2, 8, {4: CHANGED, 2: [0.0, 0.05] * 4}, True),
        (2, 10, {4: CHANGED, 2: [0.0, 0.05] * 4}, False),
        (3, 0, {4: CHANGED}, False),  # it is unmeasurable
    ],
)
def test_a_visit_ends_when_it_is_decided_on_which_side_the_change_lies_or_after_ten_pairs(
    commit: int, measured: int, logs: dict[int, list[float]], wanted: bool
) -> None:
    assert Search(4, logs, {3: "gone"}).wants_more(commit, measured) == wanted


@dataclass
class FourCommits:
    """Stands for arms and workers: the third commit is slower; pairs take a second each on a clock of its own."""

    now_s: float = 0.0
    pair_s: float = 1.0
    checks: dict[str, Paired] = field(default_factory=dict)
    """By commit, what is found out before it is measured, if something is."""
    opened: list[tuple[str, str, str, float]] = field(default_factory=list)
    asked: list[tuple[str, tuple[str, ...], int]] = field(default_factory=list)
    told: list[tuple[str, float]] = field(default_factory=list)
    head: str = ""
    base: str = ""

    @contextmanager
    def open(
        self, request: BisectRequest, base: str, head: str, folder: Path, observer: Any, left_s: float
    ) -> Iterator[tuple["FourCommits", ArmComparison]]:
        self.opened.append((base[0], head[0], folder.name, left_s))
        self.base, self.head = base, head
        folder.mkdir(parents=True)
        yield self, COMPARISON

    def check(self, comparison: ArmComparison) -> Paired:
        return self.checks.get(self.head[0], Paired((), {}))

    def measure(self, comparison: ArmComparison, stage: str, order: Any, number: int, scale: float) -> Paired:
        assert (stage, scale) == ("screen", 1.0)
        self.now_s += self.pair_s
        self.asked.append((self.head[0], tuple(order), number))
        change = sum(sign * 0.05 for sign, commit in ((1, self.head), (-1, self.base)) if "gabcd".index(commit[0]) >= 3)
        return head(change + 0.001 * (-1) ** number)

    def doing(self, what: str, left_s: float) -> None:
        self.told.append((what, left_s))


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> FourCommits:
    found = FourCommits()
    monkeypatch.setattr(searching, "_open", found.open)
    monkeypatch.setattr(searching, "time", SimpleNamespace(monotonic=lambda: found.now_s))
    monkeypatch.setattr(searching, "explain", lambda comparison, pairs: Explanation(["x"], [], None))
    monkeypatch.setattr(searching, "_graph_differences", lambda comparison, pairs: ["y"])
    return found


def request_of(folder: Path, budget_s: float = 100.0) -> BisectRequest:
    """Of the commits a to d after the good one, g."""
    suite = load_suite(write_suite(folder, "models: [lenet5]\n"))
    good, *commits = (Commit(20 * letter, datetime(2026, 1, 1, tzinfo=UTC), letter) for letter in "gabcd")
    return BisectRequest(suite, COMPARISON.base, good, commits, folder / "search", ENVIRONMENT, budget_s)


def test_a_search_visits_bad_and_then_what_halves_the_beliefs_and_measures_what_it_found_against_its_parent(
    four: FourCommits, tmp_path: Path
) -> None:
    report = searching.bisect(request_of(tmp_path), four)
    assert (report.found, report.in_time, report.seconds, report.search.pairs) == (3, True, 20.0, 14)
    assert [(commit.subject, share > 0.99) for commit, share in report.suspects] == [("c", True)]
    assert [(*each[:3], round(each[3], 6)) for each in four.opened] == [
        ("g", "d", "001-dddddddddddd", 85.0),
        ("g", "b", "002-bbbbbbbbbbbb", 75.0),
        ("g", "c", "003-cccccccccccc", 73.0),
        ("b", "c", "found", 15.0),
    ]
    visits = [
        (letter, number) for letter, count in (("d", 10), ("b", 2), ("c", 2), ("c", 6)) for number in range(count)
    ]
    assert [(letter, number) for letter, _, number in four.asked] == visits
    orders = [order for _, order, _ in four.asked]
    assert all(first == second[::-1] for first, second in zip(orders[::2], orders[1::2], strict=True))
    assert set(orders[::2]) == {("base", "head"), ("head", "base")}
    assert [(what.partition("(")[2], round(left_s, 6)) for what, left_s in four.told[:3]] == [
        ("0 of 4 commits measured): building", 85.0),
        ("0 of 4 commits measured): pair 1", 85.0),
        ("0 of 4 commits measured): pair 3", 83.0),
    ]
    assert four.told[-1][0] == "cccccccccccc: explaining"
    assert four.told[-1][1] == pytest.approx(15.0)
    assert report.ratio is not None
    assert report.ratio.pairs == 6
    assert report.ratio.ratio == pytest.approx(math.exp(0.05))
    assert (report.explanation, report.graph, report.unexplained) == (Explanation(["x"], [], None), ["y"], "")
    about = json.loads(searching.about_json(report))
    assert (about["found"], list(about["suspects"]), about["unmeasurable"]) == (20 * "c", [20 * "c"], {})
    assert (about["pairs"], about["seconds"]) == (14, 20.0)


def test_the_parent_of_the_first_commit_is_the_good_one_and_an_explanation_never_takes_anothers_folder(
    four: FourCommits, tmp_path: Path
) -> None:
    request = request_of(tmp_path)
    same = BisectReport(request, Search(4, {4: UNCHANGED}), 0.0, True)
    assert (same.has_changed, same.suspects, same.found) == (False, [], None)
    report = BisectReport(request, Search(4, {4: CHANGED, 1: CHANGED}), 0.0, True)
    assert report.found == 1
    for _ in range(3):
        searching._explain(report, four, random.Random(0))
    assert [each[:3] for each in four.opened] == [("g", "a", "found"), ("g", "a", "found-2"), ("g", "a", "found-3")]


@pytest.mark.parametrize(
    ("budget_s", "pairs"),
    [
        (0.0, 0),
        (10.0, 8),  # at 8.5 s, which another block would have overrun
        (9.0, 6),
    ],
)
def test_a_block_begins_only_if_it_will_end_within_the_searchs_share_of_the_budget(
    four: FourCommits, tmp_path: Path, budget_s: float, pairs: int
) -> None:
    four.pair_s = 1.0625
    report = searching.bisect(request_of(tmp_path, budget_s), four)
    assert (report.in_time, report.found, report.search.pairs) == (False, None, pairs)
    assert len(four.opened) == (pairs > 0)


def test_what_is_found_before_a_commit_is_measured_is_written_down_and_ends_the_search_where_it_is_of_an_end(
    four: FourCommits, tmp_path: Path
) -> None:
    four.checks["b"] = Paired((), {}, missing="head: no such model")
    report = searching.bisect(request_of(tmp_path), four)
    assert report.search.unmeasurable == {2: "head: no such model"}
    assert json.loads(searching.about_json(report))["unmeasurable"] == {20 * "b": "head: no such model"}
    (file,) = (tmp_path / "search").glob("*/skipped")
    assert (file.parent.name, file.read_text()) == ("002-bbbbbbbbbbbb", "head: no such model")
    assert (report.found, sorted(commit.subject for commit, _ in report.suspects)) == (None, ["b", "c"])
    for words, message in (
        ("head: gone", "--bad: dddddddddddd cannot be"),
        ("base: gone", "--good: gggggggggggg cann"),
    ):
        four.checks["d"] = Paired((), {}, missing=words)
        with pytest.raises(InputError, match=message):
            searching.bisect(replace(request_of(tmp_path), folder=tmp_path / words[:4]), four)


def test_a_search_goes_on_from_its_pairs_and_skipped_commits_behind_its_last_visit(
    four: FourCommits, tmp_path: Path
) -> None:
    request = request_of(tmp_path)
    searching.bisect(replace(request, budget_s=0.0), four)
    pairs = [Pair(comparison="x", stage="screen", number=0, order=["base", "head"], missing="head: gone")]
    for name, files in (
        ("003-bbbbbbbbbbbb", {"pairs.jsonl": pairs[0].model_dump_json() + "\n"}),
        ("007-aaaaaaaaaaaa", {"skipped": "it does not run\n"}),
        ("0009-zzzzzzzzzzzz", {"skipped": "of no commit"}),
        ("1b-cccccccccccc", {"skipped": "of no number"}),
    ):
        (request.folder / name).mkdir()
        for file, text in files.items():
            (request.folder / name / file).write_text(text)
    report = searching.bisect(request, four, resume=True)
    assert report.search.unmeasurable == {2: "head: gone", 1: "it does not run"}
    assert four.opened[0][2] == "008-dddddddddddd"
    with pytest.raises(RunFolderError, match="add --resume"):
        searching.bisect(request, four)
    (tmp_path / "other").mkdir()
    with pytest.raises(RunFolderError, match="expected a new folder"):
        searching.bisect(replace(request, folder=tmp_path / "other"), four, resume=True)
    with pytest.raises(RunFolderError, match="another suite, case or range"):
        searching.bisect(replace(request, commits=request.commits[:3]), four, resume=True)


def test_a_graphs_operators_are_told_where_their_number_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operators = {"base": {"Conv": 2, "Relu": 1}, "head": {"Sigmoid": 3, "Conv": 2, "Relu": 2}}
    pairs: Any = SimpleNamespace(folder=lambda arm, spec: tmp_path / arm, logs=tmp_path)

    def describe(file: Path, log: Path) -> Described:
        assert log.name == f"graph-{file.parent.name}.log"
        return Described(operators=operators[file.parent.name], content_bytes=1)

    monkeypatch.setattr(searching, "describe_graph", describe)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / artifact.GRAPH).touch()
    assert searching._graph_differences(COMPARISON, pairs) == []
    (tmp_path / "head").mkdir()
    (tmp_path / "head" / artifact.GRAPH).touch()
    assert searching._graph_differences(COMPARISON, pairs) == [
        "Relu: 1 nodes before, 2 with it",
        "Sigmoid: 0 nodes before, 3 with it",
    ]


def test_one_case_is_measured_in_two_revisions_and_why_it_cannot_run_here_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    here: list[ArmComparison] = [COMPARISON]

    @contextmanager
    def opened(*revisions: str) -> Iterator[tuple[str, ...]]:
        yield revisions

    @contextmanager
    def measured(request: Any, observer: Any) -> Iterator[tuple[str, list[ArmComparison], dict[str, str]]]:
        asked.append((request, observer))
        yield "pairs", here, {request.cases[0].id: "no-device"}

    monkeypatch.setattr(searching, "open_arms", opened)
    monkeypatch.setattr(searching, "open_pairs", measured)
    request = replace(request_of(tmp_path), seed=5)
    observer: Any = "observer"
    with searching._open(request, "g", "h", tmp_path / "x", observer, 7.0) as found:
        assert (str(found[0]), found[1]) == ("pairs", COMPARISON)
    ((gate, watcher),) = asked
    assert (gate.suite, gate.cases, gate.base, gate.head) == (request.suite, [request.case], "g", "h")
    assert (gate.folder, gate.environment, gate.budget_s, gate.seed) == (tmp_path / "x", ENVIRONMENT, 7.0, 5)
    assert watcher == "observer"
    here.clear()
    with (
        pytest.raises(InputError, match="fp32/b1: cannot be run here: no-device"),
        searching._open(request, "g", "h", tmp_path / "x", observer, 7.0),
    ):
        pass

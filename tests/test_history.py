"""The store of a history: what is added is kept once, whoever writes beside it; damage is told and loses nothing."""

import json
import math
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from cnnbench.errors import HistoryError
from cnnbench.gate.exact import Expectation, GraphFigures, ModelFigures
from cnnbench.history import store
from cnnbench.history.collect import entries_of, entries_of_exact
from cnnbench.history.entry import Entry
from cnnbench.history.link import EVERY, link_due, link_of
from cnnbench.history.store import History, add, check, read_history, rewrite
from cnnbench.records.run_folder import read_run
from cnnbench.runner import git
from tests.conftest import ROOT, Cli
from tests.records import ENVIRONMENT
from tests.test_git import USER, call

MACHINE = "0123456789abcdef"
DAY = datetime(2026, 1, 1, tzinfo=UTC)


def entry(number: int = 1, **values: Any) -> Entry:
    """The gate of commit `number` against the one before it."""
    content: dict[str, Any] = {
        "kind": "gate",
        "machine": MACHINE,
        "machine_name": "Testing CPU",
        "case": "lenet5/inference/ort/cpu/fp32/b1",
        "measured": DAY + timedelta(days=number, hours=1),
        "commit": f"{number:040x}",
        "committed": DAY + timedelta(days=number),
        "base": f"{number - 1:040x}",
        "base_committed": DAY + timedelta(days=number - 1),
        "versions": {"python": "3.11.7", "torch": "2.14.1"},
        "log_ratio": 0.01,
        "pair_sd": 0.02,
        "pairs": 6,
        "verdict": "same",
    }
    return Entry.model_validate(content | values)


def line(added: Entry) -> str:
    return added.line + "\n"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of three commits, `one` to `three`, a day apart."""
    folder = tmp_path / "repository"
    folder.mkdir()
    call(folder, "init", "-q", "-b", "main", ".")
    for number, name in enumerate(("one", "two", "three"), start=1):
        (folder / "file").write_text(name)
        call(folder, "add", ".")
        when = os.environ | {"GIT_COMMITTER_DATE": f"2026-01-0{number}T00:00:00+00:00"}
        subprocess.run(["git", *USER, "commit", "-qm", name], cwd=folder, check=True, env=when)
        call(folder, "tag", name)
    monkeypatch.chdir(folder)
    return folder


def gate_folder(folder: Path, repository: Path, **changes: Any) -> Path:
    """What a gate of `two` against `one` leaves."""
    one, two = (call(repository, "rev-parse", tag) for tag in ("one", "two"))
    arm = {"python": "3.11.7", "interpreter": "python", "torch": "2.14.1"}
    interval = [math.exp(0.05 - 0.01), math.exp(0.05 + 0.01)]
    content: dict[str, Any] = {
        "suite": "gate",
        "base": {"text": "one", "revision": one, **arm},
        "head": {"text": ".", "revision": "this", **arm},
        "slowdown": 0.0,
        "environment": ENVIRONMENT.model_copy(update={"software": {"git_commit": two}}).model_dump(mode="json"),
        "found": {
            "cases": {
                "a": {"verdict": "slower", "ratio": math.exp(0.05), "interval": interval, "pairs": 10},
                "b": {"verdict": "missing", "ratio": None, "interval": None, "pairs": 0},
                "c → d": {"verdict": "same", "ratio": 1.0, "interval": [0.99, 1.01], "pairs": 6},
            },
            "untrusted": [],
        },
    }
    folder.mkdir()
    (folder / "gate.json").write_text(json.dumps(content | changes))
    return folder


def test_what_is_added_is_read_back_once_in_the_order_of_commits(tmp_path: Path) -> None:
    first, second = entry(1), entry(2, case="naïve\\net")
    assert add(tmp_path, [second, first, second]) == [second, first]
    assert add(tmp_path, [first]) == []
    history = read_history(tmp_path)
    assert ([each.line for each in history.entries], history.unreadable) == ([first.line, second.line], [])
    assert [each.stated_id for each in history.entries] == [first.id, second.id]
    assert check(tmp_path) == []


def test_git_merges_two_branches_that_both_added(repository: Path) -> None:
    folder = repository / "history"
    add(folder, [entry(1)])
    call(repository, "add", ".")
    call(repository, "commit", "-qm", "begun")
    call(repository, "checkout", "-qb", "other")
    for branch, numbers in (("other", (2, 3)), ("main", (3, 4))):
        call(repository, "checkout", "-q", branch)
        add(folder, [entry(number) for number in numbers])
        call(repository, "commit", "-qam", branch)
    call(repository, "merge", "-q", "--no-edit", "other")
    history = read_history(folder)
    assert [each.commit for each in history.entries] == [entry(number).commit for number in (1, 2, 3, 4)]
    assert history.unreadable == []


def test_jobs_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    jobs = [[entry(10 * job + each) for each in range(1, 6)] for job in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda entries: add(tmp_path, entries), jobs))
    assert len(read_history(tmp_path).entries) == 40
    assert check(tmp_path) == []


def test_a_history_that_is_long_in_use_is_told_and_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "WAIT_S", 0.1)
    add(tmp_path, [entry(1)])
    with FileLock(tmp_path / ".lock"), pytest.raises(HistoryError, match="another job has been writing"):
        add(tmp_path, [entry(2)])
    assert len(read_history(tmp_path).entries) == 1


def test_what_is_wrong_with_lines_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    good, newer = entry(1), entry(2)
    reversed_ = entry(3, base_committed=DAY + timedelta(days=9))
    foreign = entry(9, machine="f" * 16, machine_name="Other CPU")
    altered = line(newer).replace('"pairs":6', '"pairs":7')
    cut = line(entry(5))[:60] + "\n"
    negative = line(entry(6)).replace('"pairs":6', '"pairs":-6')
    file = tmp_path / f"{MACHINE}.jsonl"
    file.write_text(line(good) + line(good) + altered + cut + line(reversed_) + line(foreign) + negative)
    found = {(fault.line, fault.kind) for fault in check(tmp_path, lambda commit: commit != reversed_.commit)}
    assert found == {
        (2, "doubled"),
        (3, "altered"),
        (4, "damaged"),
        (5, "out of order"),
        (5, "unknown commit"),
        (6, "another machine's"),
        (7, "damaged"),
    }
    history = read_history(tmp_path)
    assert [each.commit for each in history.entries] == [good.commit, newer.commit, reversed_.commit]
    (told,) = history.unreadable
    assert "3 lines are left out" in told
    assert "lines 4, 7" in told
    assert rewrite(tmp_path, lambda kept: kept.commit != good.commit) == (1, 1)
    assert cut in file.read_text()  # a line that cannot be read may be mended
    assert {fault.kind for fault in check(tmp_path)} == {"altered", "damaged", "out of order", "another machine's"}


def test_no_history_is_told(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="expected a history's folder; there is none"):
        read_history(tmp_path / "none")


def test_a_gate_is_kept_at_its_commits_with_the_error_of_its_pairs(tmp_path: Path, repository: Path) -> None:
    entries, left_out = entries_of(gate_folder(tmp_path / "gate", repository), repository)
    (kept,) = entries
    assert (kept.case, kept.verdict, kept.pairs) == ("a", "slower", 10)
    assert (kept.base, kept.commit) == tuple(call(repository, "rev-parse", tag) for tag in ("one", "two"))
    assert kept.committed == datetime(2026, 1, 2, tzinfo=UTC)
    assert kept.log_ratio == pytest.approx(0.05)
    assert kept.pair_sd == pytest.approx(0.01 * math.sqrt(10) / 1.833113, rel=1e-6)  # t(0.95, 9) of a table
    assert kept.versions == {"python": "3.11.7", "torch": "2.14.1"}
    assert left_out == [
        "b: missing, so it has no ratio",
        "c → d: the arms have other settings: they are two cases, and no history of one",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slowdown": 0.05}, "slowed down on purpose"),
        ({"found": None}, "expected a gate that has ended"),
        ({"base": {"text": ".", "revision": "a" * 40}}, "no commit aaaaaaaaaaaa: its history was rewritten"),
        ({"base": {"text": ".", "revision": "this"}, "head": {"text": ".", "revision": "this"}}, "nothing to learn"),
    ],
)
def test_a_gate_that_says_nothing_of_two_commits_is_refused(
    tmp_path: Path, repository: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(HistoryError, match=message):
        entries_of(gate_folder(tmp_path / "gate", repository, **changes), repository)


def test_a_gate_whose_null_arms_differ_or_whose_files_were_in_no_commit_adds_nothing(
    tmp_path: Path, repository: Path
) -> None:
    untrusted = {"cases": {}, "untrusted": ["a second copy of base seems slower"]}
    entries, left_out = entries_of(gate_folder(tmp_path / "gate", repository, found=untrusted), repository)
    assert entries == []
    assert "not trusted" in left_out[0]
    about = ENVIRONMENT.model_copy(update={"software": {"git_commit": "b" * 40 + "-dirty"}})
    dirty = gate_folder(tmp_path / "dirty", repository, environment=about.model_dump(mode="json"))
    with pytest.raises(HistoryError, match="changes that are in no commit"):
        entries_of(dirty, repository)


def test_two_environments_of_one_commit_are_kept_with_both_versions(tmp_path: Path, repository: Path) -> None:
    arms = {
        name: {"text": name, "revision": f"{name}/bin/python", "torch": version}
        for name, version in (("base", "2.13.0"), ("head", "2.14.1"))
    }
    (kept,) = entries_of(gate_folder(tmp_path / "gate", repository, **arms), repository).entries
    assert kept.base == kept.commit
    assert (kept.base_versions, kept.versions) == ({"torch": "2.13.0"}, {"torch": "2.14.1"})


def test_a_run_is_kept_by_its_times(tmp_path: Path, repository: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(next(file.parent for file in sorted((ROOT / "tests" / "runs").glob("*/environment.json"))), folder)
    about = json.loads((folder / "environment.json").read_text())
    about["software"]["git_commit"] = call(repository, "rev-parse", "two")
    (folder / "environment.json").write_text(json.dumps(about))
    entries, left_out = entries_of(folder, repository)
    assert {each.kind for each in entries} == {"run"}
    assert len(entries) + len(left_out) == len(read_run(folder).records)
    assert all(each.seconds for each in entries)


def test_exact_figures_are_kept_with_the_nodes_of_their_graphs(repository: Path) -> None:
    graph = GraphFigures(operators={"Conv": 2, "Relu": 3}, content_bytes=100, parity="float32")
    figures = ModelFigures(params=7, macs=8, inference=graph, step_peak_bytes={4: 99})
    (kept,) = entries_of_exact(Expectation(schema_version=1, versions={}, models={"net": figures}), repository).entries
    assert kept.machine == "any"
    assert kept.figures == {
        "params": 7,
        "macs": 8,
        "inference.nodes": 5,
        "inference.operators.Conv": 2,
        "inference.operators.Relu": 3,
        "inference.content_bytes": 100,
        "step_peak_bytes.4": 99,
    }


def test_each_twentieth_commit_is_tied_to_the_first_or_the_one_that_is_named(repository: Path) -> None:
    def due(count: int, *more: Entry, link: str | None = None) -> str | None:
        history = History(Path(), [*(entry(number) for number in range(1, count + 1)), *more])
        return link_due(history, MACHINE, link and link_of(link, repository))

    assert due(EVERY) is None  # the chain's first gate is one against its first commit
    assert due(EVERY + 1) == entry(1).base
    assert due(EVERY + 1, entry(EVERY + 1, base=entry(1).base)) is None
    assert due(EVERY, link="one") == call(repository, "rev-parse", "one")
    assert link_due(History(Path(), [entry(n) for n in range(1, 30)]), "f" * 16, None) is None
    with pytest.raises(HistoryError, match="--link: expected a revision; got 'gone'"):
        due(1, link="gone")


def test_the_command_adds_lists_checks_and_prunes(
    tmp_path: Path, repository: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, gate = str(tmp_path / "history"), str(gate_folder(tmp_path / "gate", repository))

    def history(*words: str) -> str:
        done = cli("history", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    monkeypatch.chdir(repository)
    assert "1 entries added" in history("add", folder, gate)
    assert "0 entries added" in history("add", folder, gate)
    assert "1.0513 of base, 10 pairs, slower" in history("list", folder)
    assert "1 entries" in history("check", folder)
    assert json.loads(history("list", folder, "--json"))[0]["case"] == "a"
    assert history("list", folder, "--case", "z*").strip() == ""
    assert "0 entries and 0 doubled" in history("prune", folder, "--before", "2026-01-02", "--unknown")
    assert "1 entries and 0 doubled" in history("prune", folder, "--before", "2026-01-04")
    assert "expected a day" in cli("history", "prune", folder, "--before", "soon").stderr
    assert cli("history", "add", folder, str(tmp_path)).stderr.startswith("error: ")


def test_commits_are_told_from_git_and_a_shallow_clone_says_so(repository: Path, tmp_path: Path) -> None:
    one, two, three = (call(repository, "rev-parse", tag) for tag in ("one", "two", "three"))
    assert [each.hash for each in git.commits_between(repository, one, three)] == [two, three]
    assert git.commit(repository, "two").subject == "two"
    assert git.known_commits(repository) == {one, two, three}
    with pytest.raises(git.GitError, match="is no first parent"):
        git.commits_between(repository, three, one)
    shallow = tmp_path / "shallow"
    call(tmp_path, "clone", "-q", "--depth", "1", f"file://{repository}", str(shallow))
    with pytest.raises(git.GitError):
        git.commits_between(shallow, one, three)
    gate = gate_folder(tmp_path / "gate", repository)
    with pytest.raises(HistoryError, match="this clone is shallow"):
        entries_of(gate, shallow)


def test_a_rewritten_history_is_told_and_what_is_kept_of_it_is_read_until_it_is_pruned(
    tmp_path: Path, repository: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(tmp_path / "history")
    monkeypatch.chdir(repository)
    cli("history", "add", folder, str(gate_folder(tmp_path / "gate", repository)))
    call(repository, "checkout", "-q", "--orphan", "other")
    call(repository, "commit", "-qm", "other")
    call(repository, "branch", "-qD", "main")
    call(repository, "tag", "-d", "one", "two", "three")
    told = cli("history", "check", folder)
    assert told.returncode == 3
    assert told.stdout.count("unknown commit: gate of a at") == 2
    assert "its history is shallow or rewritten" in told.stdout
    shown = cli("history", "show", folder)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "1 commits before" in shown.stdout
    assert "1 entries and 0 doubled lines dropped" in cli("history", "prune", folder, "--unknown").stdout


def test_another_machines_entries_are_in_no_chain_and_stay(tmp_path: Path, cli: Cli) -> None:
    file = tmp_path / f"{MACHINE}.jsonl"
    foreign = [entry(n, machine="f" * 16, machine_name="Other CPU", log_ratio=1.0) for n in (3, 4)]
    file.write_text("".join(map(line, [entry(1), entry(2), *foreign])))
    before = file.read_bytes()
    shown = cli("history", "show", str(tmp_path))
    assert "1.020 [" in shown.stdout
    assert "2 gates" in shown.stdout
    assert "2 lines are left out (another machine's: measured on Other CPU)" in shown.stderr
    assert len(shown.stderr.splitlines()) == 1
    assert file.read_bytes() == before

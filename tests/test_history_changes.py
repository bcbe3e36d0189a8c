"""What a history says of changes: open, acknowledged, told once, of versions or machines; and of exact figures."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cnnbench.analysis.chain import Step
from cnnbench.errors import HistoryError
from cnnbench.history.changes import Change, Changes, Place, changes_of, not_told, read_acknowledged, remember
from cnnbench.history.entry import Entry
from cnnbench.history.figures import model_histories
from cnnbench.history.index import Track, indices
from cnnbench.history.link import EVERY, link_due
from cnnbench.history.overview import overview
from cnnbench.history.store import History, add, read_history
from cnnbench.report.history import MAX_LINES, lines_of
from cnnbench.runner.run import environment_of
from cnnbench.suite.load import load_suite
from tests import scripted
from tests.conftest import Cli, write_suite
from tests.scripted import lenet
from tests.test_git import call
from tests.test_history import DAY, MACHINE, entry
from tests.test_history_index import OLD, gates

NO_RATIO: dict[str, Any] = dict.fromkeys(("base", "base_committed", "log_ratio", "pair_sd")) | {
    "pairs": 0,
    "verdict": "",
}
OTHER = "fedcba9876543210"
NEW = {"python": "3.11.7", "torch": "2.14.1"}


def run(number: int, seconds: float, **values: Any) -> Entry:
    return entry(number, kind="run", seconds=seconds, **NO_RATIO, **values)


def acknowledge(folder: Path, text: str) -> Path:
    (folder / "acknowledged.yaml").write_text(text)
    return folder


def test_a_change_stays_acknowledged_as_the_history_grows_and_another_one_is_open(tmp_path: Path) -> None:
    found = gates(80, {20: 0.08, 60: 0.06, 70: -0.06})
    folder = acknowledge(
        tmp_path,
        f"- case: 'lenet5/*'\n  commit: '{20:040x}'\n  change: slower\n  why: inputs are checked\n"
        f"- case: '*'\n  commit: '{70:040x}'\n  change: slower\n  why: of the other direction\n",
    )
    for commits in (30, 80):
        add(folder, found[: commits - 1])
        seen = overview(folder)
        assert [(each.step.at, each.why) for each in seen.changes.acknowledged] == [(20, "inputs are checked")]
    assert [(each.step.at, each.direction) for each in seen.changes.open] == [(70, "faster"), (60, "slower")]
    assert [f"no slower change of * is at {70:040x}" in each for each in seen.warnings] == [True]
    lines = lines_of(seen)
    assert [line.endswith("; acknowledged: inputs are checked") for line in lines] == [False, False, False, True]
    assert overview(folder, "lenet5/*").warnings == []  # of a part of the cases nobody can tell


def track(*steps: Step, case: str = "lenet5/x", other_versions: dict[int, str] | None = None) -> Track:
    """Of six commits, `a` to `f`, a day apart."""
    commits = [(name * 40, DAY + timedelta(days=number)) for number, name in enumerate("abcdef")]
    return Track(MACHINE, case, commits, steps, other_versions or {}, {})


def step(first: int, last: int, log: float = 0.1) -> Step:
    return Step(first, last, first, log, 0.01, 0.999)


def short(name: str) -> str:
    return name * 7


@pytest.mark.parametrize(
    ("commits", "is_there"),
    [
        ("c", True),
        ("d", True),
        ("b", False),
        ("e", False),
        ("bc", True),
        ("de", True),
        ("ae", True),
        ("ab", False),
        ("ef", False),
        ("9", False),
        ("c9", False),
        ("9d", False),
    ],
)
def test_a_change_is_at_a_place_whose_range_meets_its_own(commits: str, is_there: bool) -> None:
    """It came with `c` or `d`."""
    until = short(commits[1]) if commits[1:] else None
    place = Place(case="lenet5/*", commit=short(commits[0]), until=until, change="slower")
    assert place.is_of(track(), step(2, 3)) == is_there


def test_a_change_is_at_a_place_of_its_case_machine_and_direction() -> None:
    def found(log: float = 0.1, of: str = "lenet5/x", **about: Any) -> bool:
        asked = {"case": "lenet5/x", "commit": short("c"), "change": "slower"} | about
        return Place.model_validate(asked).is_of(track(case=of), step(2, 2, log))

    assert [found(log, change="slower") for log in (0.1, -0.1)] == [True, False]
    assert [found(log, change="faster") for log in (0.1, -0.1)] == [False, True]
    assert [found(machine=machine) for machine in (None, MACHINE, OTHER)] == [True, True, False]
    assert [found(case=case) for case in ("lenet5/*", "*", "lenet5", "alexnet/*")] == [True, True, False, False]
    assert [found(case="net[1]", of=of) for of in ("net[1]", "net1", "net2")] == [True, True, False]


def test_a_change_is_open_acknowledged_or_of_versions() -> None:
    one, range_ = step(1, 1), step(3, 5, -0.1)
    of = track(one, range_, other_versions={4: "torch 1 to 2"})
    changes = [Change(of, each, why) for each in (one, range_) for why in ("", "meant")]
    assert [change.is_open for change in changes] == [True, False, False, False]
    told = Changes(changes, [])
    assert [told.open, told.acknowledged, told.of_versions] == [changes[:1], changes[1::2], changes[2:3]]
    assert [change.versions for change in changes[1:3]] == ["", "torch 1 to 2"]
    assert changes[0].place == Place(case=of.case, commit="b" * 40, change="slower")
    assert changes[2].place == Place(case=of.case, commit="d" * 40, until="f" * 40, change="faster")


def test_changes_are_told_from_the_latest_on_with_the_first_that_acknowledges_them(tmp_path: Path) -> None:
    entries = [("*", "b", "one"), ("lenet5/*", "b", "two"), ("lenet5/*", "e", "three")]
    text = "".join(
        f"- {{case: '{case}', commit: '{short(commit)}', change: slower, why: {why}}}\n"
        for case, commit, why in entries
    )
    found = changes_of(acknowledge(tmp_path, text), [track(step(1, 1), step(4, 4)), track(step(2, 3), case="other")])
    assert [(each.track.case, each.step.at, each.why) for each in found.changes] == [
        ("lenet5/x", 4, "three"),
        ("other", 2, ""),
        ("lenet5/x", 1, "one"),
    ]
    (idle,) = found.idle
    assert idle.endswith("no slower change of lenet5/* is at bbbbbbb; drop its entry")
    assert read_acknowledged(tmp_path / "nothing") == read_acknowledged(acknowledge(tmp_path, "# none\n")) == []


def test_what_was_told_is_not_told_again_and_what_was_not_is(tmp_path: Path) -> None:
    of = track()
    first, later = Change(of, step(1, 2)), Change(of, step(4, 4))
    assert not_told(tmp_path, [first, later]) == [first, later]
    remember(tmp_path, [first])
    assert not_told(tmp_path, [first, later]) == [later]
    assert not_told(tmp_path, [Change(of, step(2, 3)), Change(of, step(1, 2, -0.1))]) == [Change(of, step(1, 2, -0.1))]
    text = (tmp_path / "told.jsonl").read_text()
    assert (text.count("\n"), "null" in text) == (1, False)
    remember(tmp_path, [later])
    assert not_told(tmp_path, [first, later]) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case: x\n", r"acknowledged.yaml:1: input should be a valid list"),
        ("- case: x\n  commit: abcdef1\n  change: slower\n", r"yaml:1: \[0\].why: field required; expected a list of"),
        ("- {case: x, commit: abcdef1, change: worse, why: y, by: me}\n", r"\[0\].change: .*; got 'worse'"),
        ("\n- {case: x, commit: 1234567, change: slower, why: y}\n", r":2: \[0\].commit: .*commits in quotes"),
        ("- {case: x, commit: abcdef1, change: slower, why: y, by: me}\n", r"\[0\].by: extra inputs"),
        ("- {case: '', commit: abcdef1, change: slower, why: y}\n", r"\[0\].case: .*at least 1 character"),
        ("- {case: x, commit: abcdef1, change: slower, why: ''}\n", r"\[0\].why: .*at least 1 character"),
        ("- [\n", r"cannot be read as YAML"),
        ("- &a [*a]\n", r"an alias"),
    ],
)
def test_what_acknowledges_nothing_is_told_with_its_place(tmp_path: Path, cli: Cli, text: str, message: str) -> None:
    add(tmp_path, gates(5, {}))
    acknowledge(tmp_path, text)
    with pytest.raises(HistoryError, match=message):
        read_acknowledged(tmp_path)
    done = cli("history", "show", str(tmp_path))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)


def test_an_open_change_is_told_once_with_what_would_acknowledge_it(tmp_path: Path, cli: Cli) -> None:
    add(tmp_path, gates(40, {20: 0.08}))
    said = cli("history", "tell", str(tmp_path))
    assert said.returncode == 0
    assert re.search(rf"`lenet5/.*` on {MACHINE}: slower, 1\.0\d+ .* with {20:040x}"[:60], said.stdout)
    assert cli("history", "tell", str(tmp_path)).stdout == ""
    add(tmp_path, gates(80, {20: 0.08, 60: -0.06})[39:])
    again = cli("history", "tell", str(tmp_path)).stdout
    assert again.count("\n- `") == 1
    assert "faster" in again
    block = said.stdout.partition("```yaml\n")[2].partition("```")[0].replace("why: ", "why: meant")
    assert yaml.safe_load(block)[0]["commit"] == f"{20:040x}"
    acknowledge(tmp_path, block)
    assert [each.step.at for each in overview(tmp_path).changes.acknowledged] == [20]


def test_a_change_with_other_versions_is_no_change_of_the_code(tmp_path: Path) -> None:
    """One was gated with other versions in the two arms; another is of times that were measured with other versions."""
    add(tmp_path, gates(30, {12: 0.1}, other_versions=12))
    rng = np.random.default_rng(1)
    times = {n: 0.001 * float(np.exp(0.3 * (n >= 25) + rng.normal(0, 0.01))) for n in range(50)}
    versions = {n: OLD if n < 25 else NEW for n in times}
    add(
        tmp_path,
        [
            entry(
                n, kind="import", tool="asv", case="timed", seconds=t, **NO_RATIO, machine=OTHER, versions=versions[n]
            )
            for n, t in times.items()
        ],
    )
    seen = overview(tmp_path).changes
    assert seen.open == []
    assert [(each.track.case[:6], each.versions) for each in seen.of_versions] == [
        ("timed", "torch 2.13.0 to 2.14.1"),
        ("lenet5", "torch 2.13.0 to 2.14.1"),
    ]


def test_versions_alone_are_told_from_gates_of_one_commit(tmp_path: Path, cli: Cli) -> None:
    same = entry(5, base=entry(5).commit, base_versions=OLD, log_ratio=0.04, pair_sd=0.01, pairs=9)
    add(tmp_path, [*gates(10, {}), same])
    (found,) = overview(tmp_path).version_gates
    assert (found.versions, found.log) == ("torch 2.13.0 to 2.14.1", 0.04)
    assert found.interval == pytest.approx(2.306004 * 0.01 / 3, rel=1e-6)  # t(0.975, 8) of a table
    page = tmp_path / "page.html"
    assert cli("history", "show", str(tmp_path), "--page", str(page)).returncode == 0
    assert "1.041 [1.033, 1.049]" in re.sub(r"</?span[^>]*>", "", page.read_text())


def moved(found: list[Entry], at: int) -> list[Entry]:
    """As measured on another machine, with other versions, from one commit on."""
    return [
        each.model_copy(update={"machine": OTHER} if int(each.commit, 16) >= at else {"versions": OLD})
        for each in found
    ]


def test_a_joined_index_goes_on_from_machine_to_machine_and_names_where(tmp_path: Path, cli: Cli) -> None:
    found = moved(gates(60, {20: 0.08}), 40)
    assert [(each.machine, len(each.commits)) for each in indices(found)] == [(MACHINE, 40), (OTHER, 21)]
    (joined,) = indices(found, joined=True)
    assert (joined.machine, joined.conflict, joined.first) == ("2 machines", 1.0, 0)
    assert float(joined.index.logs[-1]) == pytest.approx(0.08, abs=3 * float(joined.index.errors[-1]))
    assert [step.at for step in joined.steps] == [20]  # and none where the machine changed
    assert joined.marks == {40: f"machine {MACHINE} to {OTHER}; torch 2.13.0 to 2.14.1"}
    add(tmp_path, found)
    page = tmp_path / "page.html"
    assert cli("history", "show", str(tmp_path), "--joined", "--page", str(page)).stdout.count("\n") == 2
    assert f"machine {MACHINE} to {OTHER}" in page.read_text()


def test_machines_that_disagree_widen_the_errors_instead_of_making_changes() -> None:
    """A commit costs one machine 8 %, and the other, which measures links from the first commit, nothing."""
    chain = gates(101, {30: 0.08})
    links = [
        entry(n, machine=OTHER, base=entry(1).base, base_committed=DAY, log_ratio=0.0, pair_sd=0.02, pairs=8)
        for n in range(40, 101, 20)
    ]
    (joined,) = indices([*chain, *links], joined=True)
    assert joined.conflict > 1.5
    assert {step.at for step in joined.steps} <= {30}


def test_links_that_are_due_keep_the_error_bounded_and_true() -> None:
    """Simulated: 10 chains of 200 commits, each linked whenever the rule says so; without links it were 14 gates'."""
    rng, off = np.random.default_rng(9), []
    for _ in range(10):
        entries: list[Entry] = []

        def measured(base: int, head: int, entries: list[Entry] = entries) -> Entry:
            pairs = 8
            values = {
                "base": f"{base:040x}",
                "base_committed": DAY + timedelta(days=base),
                "log_ratio": 0.001 * (head - base) + float(rng.normal(0, 0.02 / np.sqrt(pairs))),
                "pair_sd": float(0.02 * np.sqrt(rng.chisquare(pairs - 1) / (pairs - 1))),
                "pairs": pairs,
            }
            return Entry.model_construct(**(dict(entry(head)) | values))

        for head in range(1, 201):
            entries.append(measured(head - 1, head))
            if older := link_due(History(Path(), entries), MACHINE, None):
                entries.append(measured(int(older, 16), head))
        (found,) = indices(entries)
        errors = np.array(found.index.errors)
        assert errors.max() < 1.2 * 0.02 / np.sqrt(8) * np.sqrt(1 + EVERY)  # their variances are estimated
        off += [float(found.index.logs[n] - 0.001 * n) / float(errors[n]) for n in (50, 100, 150, 200)]
    assert np.std(off) == pytest.approx(1.0, abs=0.3)


def test_times_of_runs_are_behind_the_index_of_their_machine_at_their_commits() -> None:
    runs = [run(n, 0.01 * 1.5 ** (n >= 6)) for n in range(0, 10, 2)]
    between = run(4, 0.01, commit="f" * 40, committed=DAY + timedelta(days=4, hours=6))
    foreign = run(3, 5.0, machine=OTHER)
    (found,) = indices([*gates(10, {}), *runs, between, foreign])
    assert [place for place, _ in found.runs] == [0, 2, 4, 6, 8, 4.5]
    logs = dict(found.runs)
    assert logs[6] - logs[4] == pytest.approx(np.log(1.5))
    assert abs(float(np.median([log - found.index.logs[int(place)] for place, log in found.runs]))) < 1e-9


def test_runs_without_gates_are_a_series_of_their_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    runs = [run(n, 0.01 * float(np.exp(0.4 * (n >= 30) + rng.normal(0, 0.01))), machine=OTHER) for n in range(60)]
    add(tmp_path, [*gates(10, {}), *runs, run(3, 1.0)])
    seen = overview(tmp_path)
    assert [(each.machine, each.tool, len(each.commits)) for each in seen.series] == [(OTHER, "", 60)]
    assert [each.step.at for each in seen.changes.open] == [30]


def exact(number: int, versions: dict[str, str] = NEW, **figures: int) -> Entry:
    names = {name.replace("__", "."): value for name, value in figures.items()}
    return entry(number, kind="exact", machine="any", case="net", figures=names, versions=versions, **NO_RATIO)


def test_each_difference_of_an_exact_figure_is_a_change_and_is_drawn(tmp_path: Path, cli: Cli) -> None:
    add(
        tmp_path,
        [
            exact(1, OLD, params=10, macs=20, inference__nodes=7, inference__operators__Relu=3, step_peak_bytes__8=99),
            exact(2, OLD, params=10, macs=20, inference__nodes=7, inference__operators__Relu=3, step_peak_bytes__8=98),
            exact(3, NEW, params=10, macs=20, inference__nodes=4, step_peak_bytes__8=98),
        ],
    )
    (model,) = overview(tmp_path).models
    assert model.main == ["params", "macs", "inference.nodes", "step_peak_bytes.8"]
    told = "torch 2.13.0 to 2.14.1"
    assert [(each.figure, each.before, each.after, each.versions) for each in model.changes] == [
        ("step_peak_bytes.8", 99, 98, ""),
        ("inference.nodes", 7, 4, told),
        ("inference.operators.Relu", 3, None, told),
    ]
    page = tmp_path / "page.html"
    said = cli("history", "show", str(tmp_path), "--page", str(page)).stdout
    assert said.startswith("exact figures of 1 models: 3 changes; the latest: inference.operators.Relu 3 to none")
    text = page.read_text()
    assert "<svg" in text
    assert f"{3:040x}"[:12] + " of 2026-01-04: inference.nodes 4" in text


def test_figures_of_models_are_in_the_order_of_commits_and_of_what_was_measured_last() -> None:
    first, again = exact(1, step_peak_bytes__8=5, macs=2, params=1), exact(1, step_peak_bytes__8=6, macs=2, params=1)
    again = again.model_copy(update={"measured": first.measured + timedelta(hours=1)})
    later = exact(2, step_peak_bytes__8=6, macs=3, params=1, other=0, training__nodes=4)
    other = exact(1, params=7).model_copy(update={"case": "another"})
    another, net = model_histories([later, again, first, other, entry(1)])
    assert (another.model, another.figures, another.changes) == ("another", [{"params": 7}], [])
    assert [commit for commit, _ in net.commits] == [first.commit, first.commit, later.commit]
    assert net.main == ["params", "macs", "training.nodes", "step_peak_bytes.8"]
    assert [(each.figure, each.commit, each.before, each.after) for each in net.changes] == [
        ("step_peak_bytes.8", first.commit, 5, 6),
        ("macs", later.commit, 2, 3),
        ("other", later.commit, None, 0),
        ("training.nodes", later.commit, None, 4),
    ]


def test_many_cases_are_ten_lines_with_the_open_changes_first(tmp_path: Path) -> None:
    chain = gates(30, {12: 0.1})
    cases = [each.model_copy(update={"case": f"case{n:02}"}) for n in range(12) for each in chain]
    add(tmp_path, [*cases, exact(1, params=10)])
    acknowledge(tmp_path, f"- {{case: case03, commit: '{12:040x}', change: slower, why: meant}}\n")
    lines = lines_of(overview(tmp_path))
    assert len(lines) == MAX_LINES
    assert "11 changes are open, 1 acknowledged" in lines[0]
    assert not any("acknowledged" in line for line in lines[1:])
    assert lines[-2:] == ["- and 5 more; --case, --page or --json shows them", "exact figures of 1 models: 0 changes"]


def test_a_gate_adds_itself_and_a_link_to_the_chain_and_a_link_that_fails_leaves_its_verdict(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A history whose first commit is gone: the gate stands, and says how to go on."""
    folder = tmp_path / "repository"
    folder.mkdir()
    suite = write_suite(
        folder,
        "defaults: {workloads: [inference], runtimes: [ort], batches: [1], case_budget: 0.1s}\nmodels: [lenet5]\n",
    )
    call(folder, "init", "-q", ".")
    for number in range(3):
        (folder / "file").write_text(str(number))
        call(folder, "add", ".")
        call(folder, "commit", "-qm", str(number))
    monkeypatch.chdir(folder)
    scripted.use(monkeypatch, tmp_path, *lenet())
    words = ("gate", suite, "--base", "HEAD~1", "--head", ".", "--history", str(tmp_path / "history"), "--budget", "2m")
    refused = cli(*words, "--link", "gone", "--out", str(tmp_path / "none"))
    assert (refused.returncode, (tmp_path / "none").exists()) == (2, False)
    assert "--link: expected a revision; got 'gone'" in refused.stderr

    loaded = load_suite(suite)
    machine = environment_of(loaded, loaded.cases).fingerprint
    add(tmp_path / "history", [entry(n, machine=machine) for n in range(1, EVERY + 1)])
    broken = cli(*words, "--out", str(tmp_path / "two"))
    assert broken.returncode == 0, broken.stderr
    assert "1 entries added" in broken.stdout
    assert f"warning: not tied to {0:012x}: --base: " in broken.stderr
    assert broken.stderr.count("--link names another commit") == 1
    tied = cli(*words, "--out", str(tmp_path / "three"), "--link", "HEAD~2")
    assert tied.returncode == 0, tied.stderr
    assert "is measured against too" in tied.stdout
    bases = [each.base for each in read_history(tmp_path / "history").entries]
    assert [bases.count(call(folder, "rev-parse", name)) for name in ("HEAD~1", "HEAD~2")] == [2, 1]

"""The index and its changes, from a history's entries to what is said of them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from cnnbench.history.entry import Entry
from cnnbench.history.index import indices
from cnnbench.history.store import add
from tests.conftest import Cli
from tests.test_history import entry

OLD = {"python": "3.11.7", "torch": "2.13.0"}


def gates(commits: int, steps: dict[int, float], other_versions: int | None = None) -> list[Entry]:
    """Of each commit against the one before it, eight pairs with a standard deviation of 2 %."""
    rng = np.random.default_rng(3)
    return [
        entry(
            number,
            log_ratio=steps.get(number, 0.0) + float(rng.normal(0, 0.02 / np.sqrt(8))),
            pair_sd=float(0.02 * np.sqrt(rng.chisquare(7) / 7)),
            pairs=8,
            base_versions=OLD if number == other_versions else None,
        )
        for number in range(1, commits)
    ]


def test_changes_are_found_in_a_history_with_their_commits_and_sizes() -> None:
    (found,) = indices([*gates(60, {20: 0.08, 45: -0.05}), entry(1, base=entry(1).commit, log_ratio=0.5)])
    assert [step.at for step in found.steps] == [20, 45]
    assert [step.log for step in found.steps] == pytest.approx([0.08, -0.05], abs=0.02)
    assert found.gates == 59  # the one of a commit against itself is none
    assert float(found.index.logs[-1]) == pytest.approx(0.03, abs=3 * float(found.index.errors[-1]))


def test_two_machines_and_two_cases_are_apart_and_a_gap_begins_a_chain_anew() -> None:
    own = gates(10, {})
    others = [each.model_copy(update={"machine": "0" * 16}) for each in own]
    cases = [each.model_copy(update={"case": "another"}) for each in own]
    assert len(list(indices([*own, *others, *cases]))) == 3
    (found,) = indices(own[:4] + own[5:])
    assert found.first == 5
    assert found.index.logs[found.first] == 0


def test_a_change_that_came_with_other_versions_says_so(tmp_path: Path, cli: Cli) -> None:
    add(tmp_path / "history", gates(30, {12: 0.1}, other_versions=12))
    done = cli("history", "show", str(tmp_path / "history"))
    assert done.returncode == 0, done.stderr
    head, change = done.stdout.splitlines()
    assert "29 commits before" in head
    assert change.startswith("- slower, 1.1")
    assert f"with {12:040x}"[:17] in change
    assert change.endswith("with other versions, no change of the code: torch 2.13.0 to 2.14.1")
    (told,) = json.loads(cli("history", "show", str(tmp_path / "history"), "--json").stdout)
    assert [each["likeliest"] for each in told["changes"]] == [f"{12:040x}"]
    page = tmp_path / "page.html"
    assert cli("history", "show", str(tmp_path / "history"), "--page", str(page)).returncode == 0
    text = page.read_text()
    assert "<svg" in text
    assert "torch 2.13.0 to 2.14.1" in text
    assert re.search(rf"{12:040x}"[:12] + r": 1\.1\d\d \[", text)  # for who points at the rule
    refused = cli("history", "show", str(tmp_path / "history"), "--page", str(tmp_path / "gone" / "page.html"))
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert "no gates" in cli("history", "show", str(tmp_path / "history"), "--case", "gone").stdout

"""The rates that docs/gate.md prints come from the file of all real gates."""

from pathlib import Path

import pytest

from tests.benchmarks import gate
from tests.conftest import ROOT


def kept(slowdown: float, *verdicts: str) -> str:
    cases = {f"case-{number}": verdict for number, verdict in enumerate(verdicts)}
    about = {"date": "2026-11-26", "cpu": "CPU", "cores": 2, "versions": {}, "seconds": 40.0}
    return gate.KeptGate.model_validate({**about, "slowdown": slowdown, "verdicts": cases}).model_dump_json() + "\n"


def test_bounds_are_those_of_clopper_and_pearson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no alarm in n the bound is 1 - 0.05^(1/n), with all of n seen 0.05^(1/n)."""
    file = tmp_path / "gates.jsonl"
    file.write_text(kept(0.0, "same", "inconclusive") * 30 + kept(0.05, "slower") * 30 + kept(0.03, "slower-small"))
    monkeypatch.setattr(gate, "KEPT", file)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in gate.table().splitlines()[2:]]
    assert rows == [
        ["nothing (A/A)", "30", "60", "0", f"false alarms in at most {1 - 0.05 ** (1 / 30):.1%} of gates", "0"],
        ["3%", "1", "1", "0", "at least 0% of cases", "1"],
        ["5%", "30", "30", "30", f"at least {0.05 ** (1 / 30):.0%} of cases", "30"],
    ]


def test_the_documented_rates_are_those_of_the_kept_gates() -> None:
    if not gate.KEPT.exists():
        pytest.skip("no gate has been kept")
    assert gate.table() in (ROOT / "docs" / "gate.md").read_text()

"""Every code has its words and its line in the documents, and no other has one."""

import re
from typing import get_args

from cnnbench.errors import CnnbenchError, ModelError, WorkerCrashed, WorkerError, WorkerHung, WorkerOutOfMemory
from cnnbench.records.reason import CODES, Interference, InterferenceKind, Reason, reason_for
from cnnbench.report.reasons import INTERFERENCE, REASONS, interference_text, reason_text
from tests.conftest import ROOT


def documented(heading: str) -> list[str]:
    """The first column of the table below a heading of docs/formats.md."""
    section = (ROOT / "docs" / "formats.md").read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `([a-z0-9-]+)` \|", section, re.MULTILINE)


def test_every_reason_is_documented_and_has_words() -> None:
    assert documented("Reasons") == list(CODES)
    assert set(REASONS) == set(CODES)


def test_every_kind_of_interference_is_documented_and_has_words() -> None:
    assert documented("Interference") == list(get_args(InterferenceKind))
    assert set(INTERFERENCE) == set(get_args(InterferenceKind))


def test_an_error_of_a_worker_has_its_code() -> None:
    errors: list[CnnbenchError] = [kind("x") for kind in (WorkerCrashed, WorkerHung, WorkerOutOfMemory, ModelError)]
    codes = [reason_for(error).code for error in [*errors, WorkerError("x")]]
    assert codes == ["crashed", "hung", "out-of-memory", "model", "error"]


def test_words_have_the_detail_and_shares_their_unit() -> None:
    assert (
        reason_text(Reason(code="drift", detail="+24 %")) == "the times drifted from the first block to the last: +24 %"
    )
    assert reason_text(Reason(code="other", detail="whatever")) == "whatever"
    found = [Interference(kind="other-processes", amount=0.431), Interference(kind="swap", amount=1200)]
    assert interference_text(found) == "other processes: 43 % of all CPU time; pages swapped: 1,200"
    assert [str(each) for each in found] == ["other-processes 43 %", "swap 1,200"]

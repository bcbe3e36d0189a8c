"""Tables from fixed records, compared whole."""

import json
import re
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from cnnbench.analysis.cases import case_rows
from cnnbench.analysis.stats import Estimate
from cnnbench.analysis.status import rechecked
from cnnbench.analysis.times import batches, starts
from cnnbench.records.reason import Reason
from cnnbench.records.record import Block, CounterResults, Measurement, Parity, Record
from cnnbench.records.run_folder import Run
from cnnbench.report.files import write_report
from cnnbench.report.format import interval_text
from cnnbench.report.sections import run_page
from cnnbench.report.table import Table
from cnnbench.report.tables import run_tables
from cnnbench.report.terminal import Progress, line_of, print_tables
from tests.records import ENVIRONMENT, case, record

EAGER = [0.010, 0.0101, 0.0102, 0.0098, 0.0099, 0.010, 0.010]
ORT = [time / 2 for time in EAGER]
NO_DRIVER = Reason(code="no-device", detail="no driver")


def run(folder: Path, *records: Record) -> Run:
    return Run(folder, "tiny", "2026-01-01T00:00:00+00:00", ENVIRONMENT, {r.id: r for r in records})


@pytest.fixture
def tiny(tmp_path: Path) -> Run:
    return run(
        tmp_path,
        record(case("eager"), EAGER, samples=10),
        record(case("ort"), ORT),
        record(case("eager", device="cuda"), status="unavailable", reasons=[NO_DRIVER]),
        record(case("eager", "training"), [0.03] * 6),
    )


def table(tables: list[Table], name: str) -> Table:
    return next(table for table in tables if table.name == name)


def test_the_models_table(tiny: Run) -> None:
    assert table(run_tables(tiny), "models").markdown.splitlines() == [
        "| model   | input   |   parameters |   MACs | cross-check   |   top-1 % |   ONNX MB |   export s |",
        "|:--------|:--------|-------------:|-------:|:--------------|----------:|----------:|-----------:|",
        "| lenet5  | 1x28x28 |       44,426 |  282 k | 2 agree       |         – |     0.190 |        2.5 |",
    ]


def test_the_models_table_has_the_published_miou_where_there_is_one(tmp_path: Path) -> None:
    of = record(case("eager"), EAGER)
    assert of.counts is not None
    of = of.model_copy(update={"counts": of.counts.model_copy(update={"miou_percent": 60.5})})
    models = table(run_tables(run(tmp_path, of)), "models")
    assert models.texts[0][models.headings.index("mIoU %")] == "60.5"
    assert "mIoU" in models.caption


def test_the_inference_table(tiny: Run) -> None:
    inference = table(run_tables(tiny), "inference")
    rows = [tuple(row) for row in inference.cells.itertuples(index=False)]
    assert list(inference.cells.columns) == [
        *(
            "model",
            "batch",
            "backend",
            "ms",
            "p90 ms",
            "images/s",
            "vs eager",
            "rank",
            "launches",
            "peak MiB",
            "parity error",
            "status",
        )
    ]
    assert rows == [
        # 70 single calls support a p90; 14 do not
        ("lenet5", "8", "eager/cpu", "10.0 [9.8, 10.2]", "10.2", "800", "–", "2", "1", "100", "2e-06", "ok"),
        (
            "lenet5",
            "8",
            "ort/cpu",
            "5.00 [4.90, 5.10]",
            "–",
            "1,600",
            "×2.00 [2.00, 2.00]",
            "1",
            "1",
            "100",
            "2e-06",
            "ok",
        ),
        ("lenet5", "8", "eager/cuda", *"–" * 8, "unavailable [1]"),
    ]
    assert inference.notes == ["[1] unavailable: there is no such device: no driver"]


def test_the_training_table_has_the_steps_phases(tiny: Run) -> None:
    training = table(run_tables(tiny), "training").cells.iloc[0]
    assert (training["ms"], training["images/s"]) == ("30.00 [30.00, 30.00]", "267")
    assert [training[f"{phase} ms"] for phase in ("forward", "backward", "optimizer")] == [
        "10.0",
        "10.0",
        "10.0",
    ]


def test_the_start_table_keeps_export_load_and_first_call_apart(tiny: Run) -> None:
    start = table(run_tables(tiny), "start").cells
    ort = start[start["backend"] == "ort/cpu"].iloc[0]
    eager = start[(start["backend"] == "eager/cpu") & (start["workload"] == "inference")].iloc[0]
    assert (ort["export s"], ort["load ms"], ort["first call ms"]) == ("2.50", "250", "50")
    assert eager["export s"] == "–"


def test_a_case_that_was_built_and_failed_has_no_start_up() -> None:
    failed = record(case("ort"), [0.005]).model_copy(update={"status": "failed", "measurement": None})
    assert [start.case for start in starts([failed, record(case("eager"), EAGER)])] == [case("eager")]


@pytest.mark.parametrize(("known", "mib_per_image", "full_at"), [(0, None, None), (1, None, None), (2, 1.0, 8192)])
def test_memory_by_batch_is_told_where_two_peaks_are_known(
    tmp_path: Path, known: int, mib_per_image: float | None, full_at: int | None
) -> None:
    """ONNX Runtime on CUDA tells none."""
    records = [record(case("ort", device="cuda", batch=batch), EAGER) for batch in (1, 2, 4)]
    for place, each in enumerate(records[:known]):
        (launch,) = each.launches
        memory = launch.memory.model_copy(update={"device_allocated_bytes": each.case.batch * 2**20})
        launches = [launch.model_copy(update={"memory": memory})]
        records[place] = each.model_copy(update={"measurement": Measurement(launches=launches)})
    (found,) = batches(records)
    assert (found.best, found.mib_per_image, found.memory_full_at) == (4, mib_per_image, full_at)
    row = table(run_tables(run(tmp_path, *records)), "batches").cells.iloc[0]
    assert (row["batches"], row["memory full at"]) == ("1, 2, 4", "–" if full_at is None else "8,192")


@pytest.mark.parametrize(("device", "field"), [("cpu", "peak_bytes"), ("cuda", "device_allocated_bytes")])
def test_the_peak_of_memory_is_that_of_the_launch_with_the_largest(device: str, field: str) -> None:
    of = record(case("eager", device=device), EAGER)
    (launch,) = of.launches
    memories = [launch.memory.model_copy(update={field: mib * 2**20}) for mib in (300, 500, 400)]
    launches = [launch.model_copy(update={"memory": memory}) for memory in memories]
    (row,) = case_rows([of.model_copy(update={"measurement": Measurement(launches=launches)})])
    assert row.peak_mib == 500


def test_a_step_whose_phases_take_no_time_has_a_row_and_a_page(tmp_path: Path) -> None:
    """As a damaged file says: of each phase most samples are 0 s, and no sum is."""
    step = record(case("eager", "training"), EAGER)
    (launch,) = step.launches
    seconds = {"forward": [0, 0, 0.01], "backward": [0, 0.01, 0], "optimizer": [0.01, 0, 0]}
    blocks = [Block.model_validate({"round": n, "seconds": seconds}) for n in range(6)]
    launches = [launch.model_copy(update={"blocks": blocks})] * 3
    step = step.model_copy(update={"measurement": Measurement(launches=launches)})
    (row,) = case_rows([step])
    assert row.phases_ms == {"forward": 0, "backward": 0, "optimizer": 0}
    of = run(tmp_path, step)
    assert "training" in {section.id for section in run_page(of, run_tables(of)).sections}


def test_a_better_status_than_the_data_support_is_shown_as_claimed(tmp_path: Path) -> None:
    wrong = record(case("ort"), ORT).model_copy(update={"parity": [Parity(what="ort b1", error=0.5, limit=1e-5)]})
    inference = table(run_tables(rechecked(run(tmp_path, record(case("eager"), EAGER), wrong))), "inference")
    assert inference.cells["status"].tolist() == ["ok", "invalid [1]"]
    assert inference.cells["vs eager"].tolist() == ["–", "–"]
    assert "the file claims another status: ok" in inference.notes[0]


def test_records_of_two_comparison_groups_are_not_compared(tmp_path: Path) -> None:
    later = record(case("ort"), ORT)
    assert later.measurement is not None
    (launch,) = later.measurement.launches
    another = Measurement(launches=[launch.model_copy(update={"group": "another"})])
    later = later.model_copy(update={"measurement": another})
    cells = table(run_tables(run(tmp_path, record(case("eager"), EAGER), later)), "inference").cells
    assert cells["status"].tolist() == ["ok", "ok"]
    assert cells["vs eager"].tolist() == ["–", "–"]


def test_rows_that_differ_in_threads_are_told_apart(tmp_path: Path) -> None:
    one = case("eager").model_copy(update={"threads": 1})
    tables = run_tables(run(tmp_path, record(case("eager"), EAGER), record(one, EAGER)))
    assert table(tables, "inference").cells["model"].tolist() == ["lenet5", "lenet5/t1"]
    assert table(tables, "start").cells["model"].tolist() == ["lenet5", "lenet5/t1"]


@pytest.mark.parametrize("status", ["invalid", "failed"])
def test_invalid_records_are_shown_and_not_compared(tmp_path: Path, status: str) -> None:
    bad = record(case("ort"), ORT).model_copy(update={"status": status, "reasons": [Reason(code="parity")]})
    cells = table(run_tables(run(tmp_path, record(case("eager"), EAGER), bad)), "inference").cells
    assert cells["status"].tolist() == ["ok", f"{status} [1]"]
    assert cells["ms"].tolist()[1] != "–"
    assert cells["vs eager"].tolist() == ["–", "–"]


def test_a_run_of_nothing_but_absent_devices_still_has_its_rows(tmp_path: Path) -> None:
    absent = record(case("eager", device="cuda"), status="unavailable", reasons=[Reason(code="no-device")])
    (only,) = run_tables(run(tmp_path, absent))
    assert only.cells["status"].tolist() == ["unavailable [1]"]


def test_the_files_hold_every_table_and_its_numbers(tiny: Run) -> None:
    write_report(tiny, run_tables(tiny), run_page(tiny, []))
    report = (tiny.folder / "report.md").read_text()
    assert report.startswith(
        "# tiny\n\nTesting CPU, 2 threads; 2 cores allowed, 8 GiB, Linux 6. python 3.11.7, torch 2.14.1"
    )
    for title in ("## Models", "## Inference", "## Training", "## Cold start", "1 MAC = 2 FLOP"):
        assert title in report
    numbers = pd.read_csv(tiny.folder / "tables" / "inference.csv")
    assert numbers["ms"].tolist()[:2] == [pytest.approx(10.0), pytest.approx(5.0)]
    assert numbers["speedup"][1] == pytest.approx(2.0)


def test_names_from_records_are_data_in_markdown_and_in_the_terminal(tmp_path: Path) -> None:
    evil = record(
        case("eager", device="cuda", model="<b>|[red]:x"),
        status="unavailable",
        reasons=[Reason(code="no-device", detail="[bold]<script>")],
    )
    tables = run_tables(run(tmp_path, evil))
    assert "&lt;b&gt;&#124;[red&#93;:x" in tables[0].markdown
    console = Console(file=StringIO(), width=160)
    print_tables(console, tables)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "<b>|[red]:x" in shown
    assert "[bold]<script>" in shown


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (12.345, 12.3, 12.4, "12.35 [12.30, 12.40]"),
        (12.3, 10, 15, "12 [10, 15]"),
        (1234.0, 1200, 1300, "1,230 [1,200, 1,300]"),
        (0.0123, 0.0121, 0.0126, "0.0123 [0.0121, 0.0126]"),
        (0.34, 0.25, 5.04, "0.34 [0.25, 5.04]"),
        (5.0, None, None, "5.0 [?]"),
    ],
)
def test_figures_have_the_digits_that_their_interval_supports(
    value: float, low: float | None, high: float | None, text: str
) -> None:
    assert interval_text(Estimate(value, low, high)) == text


ABSENT = record(case("eager", device="cuda"), status="unavailable", reasons=[NO_DRIVER])


def test_in_a_log_each_subject_each_case_and_each_thing_that_is_missing_has_one_line() -> None:
    console = Console(file=StringIO(), width=160)
    with Progress(console, total=5, finished=1, title="tiny: lenet5") as progress:
        progress.doing("probing", 80)
        progress.done(ABSENT)
        progress.done(record(case("ort", device="cuda"), status="unavailable", reasons=[NO_DRIVER]))
        progress.doing("lenet5/inference: starting", 75)
        progress.doing("lenet5/inference: round 1", 70)
        progress.done(record(case("eager"), EAGER))
        progress.doing("other/inference: round 1", 60)
        progress.doing("lenet5/inference: round 1", 50)
        progress.done(record(case("eager"), EAGER))
        progress.doing("other/inference: round 2", 40)
        progress.done(record(case("eager"), EAGER, status="noisy"))
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "tiny: lenet5",
        "[1/5] probing, about 1 min 20 s left",
        "2 cases need CUDA: no driver.",
        "[3/5] lenet5/inference: starting, about 1 min 15 s left",
        "[4/5] lenet5/inference/eager/cpu/fp32/b8: ok, 10.0 ms ± 2.0%, 800 images/s",
        "[4/5] other/inference: round 1, about 1 min 00 s left",
        "[4/5] lenet5/inference: again, about 50 s left",
        "[4/5] other/inference: again, about 40 s left",
        "[4/5] lenet5/inference/eager/cpu/fp32/b8: noisy, 10.0 ms ± 2.0%, 800 images/s",
    ]


class _Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def shown(console: Console) -> str:
    """What reached the terminal, with its control sequences."""
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_on_a_terminal_progress_is_one_block_of_ratios_so_far_that_leaves_nothing_behind() -> None:
    console = Console(file=_Terminal(), width=80, height=20, force_terminal=True, _environ={})
    with Progress(console, total=4, title="tiny: lenet5 in eager and ort") as progress:
        progress.done(ABSENT)
        progress.doing("lenet5: round 1", 30)
        progress.done(record(case("eager"), EAGER))
        progress.done(record(case("ort"), ORT))
        progress.done(record(case("ort", "training"), status="failed", reasons=[Reason(code="crashed")]))
        progress.doing("lenet5: round 2", 20)
        drawn = shown(console)
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn[drawn.rindex("tiny: lenet5") :])
    assert [" ".join(line.split()) for line in last.splitlines()] == [
        "tiny: lenet5 in eager and ort",
        "measured eager speed as a multiple of eager's",
        "lenet5 inference batch 8 10.0 ms ort ×2.00",
        "lenet5 training batch 8 ort failed",
        "1 case needs CUDA: no driver.",
        f"{'━' * 30} 4/4",
        "lenet5: round 2, about 20 s left",
    ]
    erased = shown(console)[len(drawn) :]
    assert erased.count("\x1b[2K") >= 7, "the block is taken away"
    assert "driver" not in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", erased).partition("20 s left")[2]


def test_the_block_keeps_to_the_height_of_the_terminal() -> None:
    console = Console(file=_Terminal(), width=80, height=16, force_terminal=True, _environ={})
    with Progress(console, total=40, title="t") as progress:
        for batch in range(1, 31):
            progress.done(record(case("eager", batch=batch), EAGER))
        last = shown(console)[shown(console).rindex("before these") - 4 :]
    assert "22 before these" in last
    assert last.count("lenet5") == 8


@pytest.mark.parametrize("terminal", [{"TERM": "dumb"}, {"TERM": "xterm", "NO_COLOR": "1"}])
def test_a_dumb_terminal_gets_lines_and_one_without_colours_gets_none(terminal: dict[str, str]) -> None:
    console = Console(file=_Terminal(), width=80, height=20, force_terminal=True, _environ=terminal)
    with Progress(console, total=1, title="t") as progress:
        progress.done(record(case("eager"), EAGER))
    is_dumb = terminal["TERM"] == "dumb"
    assert ("\x1b[2K" in shown(console)) != is_dumb
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", shown(console)), "no colour"


def test_without_a_total_progress_is_a_line_for_each_subject() -> None:
    console = Console(file=StringIO(), width=160)
    with Progress(console) as progress:
        progress.doing("a/inference: screen", 75)
        progress.doing("a/inference: confirm", 70)
        progress.doing("b/inference: screen", 65)
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "a/inference: screen, about 1 min 15 s left",
        "b/inference: screen, about 1 min 05 s left",
    ]


def test_integers_stay_integers_where_some_are_missing(tiny: Run) -> None:
    """As on a machine whose counters do not all run."""
    tables = {each.name: each for each in run_tables(tiny)}
    launches = tables["inference"].data["launches"]
    assert launches.tolist()[:2] == [1, 1]
    assert pd.isna(launches[2])
    counted = CounterResults(closed_form=None, counted={"module": {"all": (44_426, 0)}, "dispatch": {"all": (0, 5)}})
    measured = record(case("eager"), EAGER)
    assert measured.artifact is not None
    facts = measured.artifact.model_copy(update={"counters": counted})
    (counters,) = (
        each
        for each in run_tables(run(tiny.folder, measured.model_copy(update={"artifact": facts})))
        if each.name == "counters"
    )
    assert counters.cells["module"].tolist() == ["44,426", "–"]
    assert "44426.0" not in counters.data.to_csv()


def test_a_failed_case_says_why_in_its_line() -> None:
    assert line_of(record(case("ort"), status="failed", reasons=[Reason(code="crashed", detail="by SIGKILL")])) == (
        "lenet5/inference/ort/cpu/fp32/b8: failed (the process crashed: by SIGKILL)"
    )


def test_records_survive_json(tiny: Run) -> None:
    for kept in tiny.records.values():
        assert Record.model_validate(json.loads(kept.model_dump_json())) == kept

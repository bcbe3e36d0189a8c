"""Tables from fixed records, compared whole."""

import json
import math
import re
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from cnnbench.analysis.cases import beside_each_other, case_rows
from cnnbench.analysis.stats import Estimate
from cnnbench.analysis.status import rechecked
from cnnbench.analysis.times import batches, break_even, call_time, shared_blocks, speedup, starts
from cnnbench.records.reason import Interference, Reason
from cnnbench.records.record import Block, CounterResults, Launch, Measurement, Parity, Published, Ran, Record
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
    assert of.artifact is not None
    published = Published(
        weights="V1", params=44_426, giga_macs=None, image_size=28, top1_percent=None, miou_percent=60.5
    )
    counters = of.artifact.counters.model_copy(update={"published": published})
    of = of.model_copy(update={"artifact": of.artifact.model_copy(update={"counters": counters})})
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


def changed(of: Record, **about: object) -> Record:
    """With another launch."""
    (launch,) = of.launches
    return of.model_copy(update={"measurement": Measurement(launches=[launch.model_copy(update=about)])})


def test_a_slower_start_is_amortised_by_faster_calls() -> None:
    """8 images take eager 10 ms, from 0.3 s on; ONNX Runtime has an export of 2.5 s before its own 0.3 s."""
    eager = record(case("eager"), [0.01] * 6)

    def images(call_s: float, runtime: str = "ort", load_s: float = 0.25) -> float | None:
        return break_even(changed(record(case(runtime), [call_s] * 6), load_s=load_s), eager)

    assert images(0.005) == pytest.approx(2.5 / (0.005 / 8))
    assert images(0.005, load_s=1.25) == pytest.approx(3.5 / (0.005 / 8))
    assert (images(0.01), images(0.02), images(0.02, "compile", 0.0)) == (math.inf, math.inf, math.inf)
    assert images(0.005, "compile", 0.1) == 0.0, "it starts sooner, too"
    ort = record(case("ort"), [0.005] * 6)
    assert (break_even(eager, eager), break_even(ort, None)) == (None, None)
    wrong = ort.model_copy(update={"status": "invalid"})
    assert (break_even(wrong, eager), break_even(ort, eager.model_copy(update={"status": "failed"}))) == (None, None)
    assert [start.break_even_images for start in starts([ort, eager])] == [pytest.approx(4000), None]
    assert [start.break_even_images for start in starts([eager, ort])] == [None, pytest.approx(4000)]
    slow_start = changed(ort, first_call_s=0.55)
    assert break_even(slow_start, eager) == pytest.approx(3.0 / (0.005 / 8))
    assert starts([ort.model_copy(update={"artifact": None})]) == []


def test_a_start_is_that_of_the_smallest_batch_with_what_was_compiled_ahead() -> None:
    larger, smaller = (record(case("aot", batch=batch), [0.005] * 6) for batch in (8, 2))
    ran = Ran(device="cpu", device_name="cpu", threads=2, precision="fp32", facts={"export_s": 3.0, "compile_s": 40})
    (found,) = starts([larger, changed(smaller, ran=ran)])
    assert (found.case.batch, found.export_s, found.compile_s) == (2, 3.0, 40.0)
    assert [(each.export_s, each.compile_s) for each in starts([smaller])] == [(None, None)]
    for known in ("export_s", "compile_s"):
        (alone,) = starts([changed(smaller, ran=ran.model_copy(update={"facts": {known: 3.0}}))])
        assert (alone.export_s, alone.compile_s) == (None, None)
    (exported,) = starts([changed(record(case("ort"), [0.005] * 6), ran=ran)])
    assert (exported.export_s, exported.compile_s) == (2.5, None), "nothing is compiled ahead"
    eager = record(case("eager", batch=2), [0.01] * 6)
    images = break_even(changed(smaller, ran=ran), eager)
    assert images == pytest.approx(43.0 / (0.005 / 2))


def disturbed(of: Launch, *rounds: int) -> Launch:
    beside = [Interference(kind="other-processes", amount=0.4)]
    blocks = [each.model_copy(update={"interference": beside}) if each.round in rounds else each for each in of.blocks]
    return of.model_copy(update={"blocks": blocks})


def test_rounds_with_interference_in_either_launch_are_left_out_where_six_others_remain() -> None:
    (first,), (second,) = (record(case(runtime), [0.01] * 8).launches for runtime in ("eager", "ort"))

    def rounds(*pair: Launch) -> tuple[list[int], bool]:
        blocks, is_disturbed = shared_blocks(*pair)
        assert all(one.round == other.round for one, other in blocks)
        return [one.round for one, _ in blocks], is_disturbed

    assert rounds(disturbed(first, 0), disturbed(second, 1)) == ([2, 3, 4, 5, 6, 7], False)
    assert rounds(disturbed(first, 0, 2), disturbed(second, 1)) == (list(range(8)), True)
    later = second.model_copy(update={"blocks": second.blocks[2:]})
    assert rounds(first, later) == ([2, 3, 4, 5, 6, 7], False)
    blocks, _ = shared_blocks(disturbed(first, 3), later)
    assert [bool(one.interference) for one, _ in blocks] == [False, True, *[False] * 4]
    assert not any(other.interference for _, other in blocks)


def test_a_speedup_is_of_calls_in_the_rounds_that_both_were_in() -> None:
    """Each round is slower than the one before, so that a pair of different rounds would show."""
    eager = record(case("eager"), [0.01 * 1.5**n for n in range(9)])
    (launch,) = record(case("ort"), [0.01 * 1.5 ** (n + 2) for n in range(9)]).launches
    blocks = [block.model_copy(update={"round": block.round + 2}) for block in launch.blocks]
    ort = changed(record(case("ort"), [0.01]), blocks=blocks, calls_per_sample=4)
    faster, slower = speedup(ort, eager), speedup(eager, ort)
    assert faster is not None
    assert slower is not None
    assert (faster.value, faster.low, faster.high) == pytest.approx((4.0, 4.0, 4.0))
    assert slower.value == pytest.approx(0.25)
    assert speedup(eager, eager) is None
    assert speedup(changed(ort, blocks=blocks[7:]), eager) is None, "no round is shared"
    for one, other in ((ort, eager), (eager, ort)):
        assert speedup(one, other.model_copy(update={"status": "failed"})) is None
    of_ort = call_time(ort)
    assert of_ort is not None
    assert of_ort.value == pytest.approx(0.01 * 1.5**6 / 4)
    assert call_time(changed(ort, blocks=[])) is None


def test_launches_are_paired_by_their_own_group() -> None:
    times = {"first": 0.01, "second": 0.04}
    launches = [changed(record(case(), [call_s] * 6), group=group).launches[0] for group, call_s in times.items()]
    eager = record(case("eager"), [0.01]).model_copy(update={"measurement": Measurement(launches=launches)})
    faster = speedup(changed(record(case("ort"), [0.02] * 6), group="second"), eager)
    assert faster is not None
    assert faster.value == pytest.approx(2.0)
    alone = [changed(record(case(runtime), [0.01] * 6), group="") for runtime in ("ort", "eager")]
    assert speedup(*alone) is None, "each was measured on its own"


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


@pytest.mark.parametrize(
    ("peaks_mib", "mib_per_image", "full_at"),
    [
        ((11.5, 12.5, 14.5), 1.0, 8181),
        ((13, 16, 22), 3.0, 2727),  # (8192 - 10) / 3 = 2727.3
        ((10, 10, 10), 0.0, None),
        ((14, 13, 11), -1.0, None),
        ((9001, 9002, 9004), 1.0, 0),
    ],
)
def test_memory_is_full_where_a_line_through_its_peaks_reaches_the_machines(
    peaks_mib: tuple[float, ...], mib_per_image: float, full_at: int | None
) -> None:
    """It has 8 GiB."""
    records = []
    for batch, peak, call_s in zip((1, 2, 4), peaks_mib, (0.01, 0.015, 0.05), strict=True):
        of = record(case("eager", batch=batch), [call_s] * 6)
        memory = of.launches[0].memory.model_copy(update={"peak_bytes": int(peak * 2**20)})
        records.append(changed(of, memory=memory))
    (found,) = batches(records)
    assert (found.best, found.memory_full_at) == (2, full_at)
    assert found.mib_per_image == pytest.approx(mib_per_image)
    assert list(found.rates.values()) == pytest.approx([100, 2 / 0.015, 80])
    elsewhere = [each.model_copy(update={"environment": None}) for each in records]
    assert batches(elsewhere)[0].memory_full_at is None
    assert batches(records[:2]) == batches([*records[:2], records[2].model_copy(update={"status": "invalid"})]) == []


@pytest.mark.parametrize(("device", "field"), [("cpu", "peak_bytes"), ("cuda", "device_allocated_bytes")])
def test_the_peak_of_memory_is_that_of_the_launch_with_the_largest(device: str, field: str) -> None:
    of = record(case("eager", device=device), EAGER)
    (launch,) = of.launches
    memories = [launch.memory.model_copy(update={field: mib * 2**20}) for mib in (300, 500, 400)]
    launches = [launch.model_copy(update={"memory": memory}) for memory in memories]
    (row,) = case_rows([of.model_copy(update={"measurement": Measurement(launches=launches)})])
    assert row.peak_mib == 500


def test_a_rows_figures_are_of_all_launches() -> None:
    of = record(case("eager", batch=4), [0.02] * 6, samples=3)
    (launch,) = of.launches
    joules = [each.model_copy(update={"joules": 0.6}) for each in launch.blocks]
    (second,) = record(case("eager"), [0.04] * 5, samples=2).launches
    third = disturbed(second, 1, 3).model_copy(update={"stopped": "steady"})
    of = of.model_copy(
        update={
            "measurement": Measurement(launches=[launch, second, third]),
            "parity": [Parity(what="a", error=error, limit=1.0) for error in (1e-7, 3e-7, None, 2e-7)],
            "reasons": [Reason(code="drift", detail="+6 %"), Reason(code="two-modes", detail="7 % apart")],
            "status": "noisy",
        }
    )
    (row,) = case_rows([of])
    assert (row.launches, row.blocks, row.samples, row.blocks_with_interference) == (3, 16, 18 + 10 + 10, 2)
    assert (row.stopped, row.parity_error, row.codes) == ("steady", 3e-7, "drift; two-modes")
    assert row.reason.startswith("drift: +6 %; two-modes: 7 %")
    assert row.ms is not None
    assert (row.ms.value, row.images_per_s) == pytest.approx((40, 100))
    assert (row.rank, row.tied) == (None, False)
    assert (row.forward_ms, row.phases_ms, row.millijoules_per_image) == (None, {}, None)
    energy = of.model_copy(update={"measurement": Measurement(launches=[launch.model_copy(update={"blocks": joules})])})
    assert case_rows([energy])[0].millijoules_per_image == pytest.approx(1e3 * 0.6 / (3 * 4))
    assert [each.is_comparable for each in case_rows([of, of.model_copy(update={"status": "failed"})])] == [True, False]


def test_percentiles_are_of_single_calls_alone() -> None:
    """100 calls are enough for a p90, 130 for a p95, and none of these for a p99."""
    values = [0.001 * (n + 1) for n in range(130)]
    blocks = [{"round": 0, "seconds": {"forward": values[:100]}}, {"round": 1, "seconds": {"forward": values[100:]}}]
    whole = changed(record(case("eager"), [0.01]), blocks=[Block.model_validate(each) for each in blocks])
    (row,) = case_rows([whole])
    assert (row.p90_ms, row.p95_ms) == pytest.approx((117, 124))
    assert row.p99_ms is None
    (fewer,) = case_rows([changed(whole, blocks=whole.launches[0].blocks[:1])])
    assert fewer.p90_ms == pytest.approx(90)
    assert fewer.p95_ms is None
    (several,) = case_rows([changed(whole, calls_per_sample=2)])
    assert (several.p90_ms, several.p95_ms, several.samples) == (None, None, 130)


def test_rows_are_ranked_where_they_do_the_same_work_and_compared_with_float32() -> None:
    times = {"eager": 0.01, "ort": 0.005, "compile": 0.005, "folded": 0.02}
    rows = case_rows([record(case(runtime), [time] * 6) for runtime, time in times.items()])
    assert [(row.runtime, row.rank, row.tied) for row in rows] == [
        ("eager", 3, False),
        ("ort", 1, True),
        ("compile", 1, True),
        ("folded", 4, False),
    ]
    half = record(case("ort").model_copy(update={"precision": "bf16"}), [0.002] * 6)
    step, full, low = case_rows(
        [record(case("eager", "training"), [0.03] * 6), record(case("ort"), [0.005] * 6), half]
    )[::-1]
    assert (step.workload, low.workload) == ("training", "inference")
    assert [each.rank for each in (full, low, step)] == [None, None, None]
    ratios = [each.vs_fp32 and each.vs_fp32.value for each in (low, full, step)]
    assert ratios == [None, pytest.approx(2.5), None]


def test_what_is_compared_stands_together_in_the_order_of_the_suite() -> None:
    asked = [
        ("b", "training", 1),
        ("a", "inference", 8),
        ("b", "inference", 8),
        ("a", "inference", 1),
        ("b", "inference", 1),
    ]
    given = [record(case("eager", workload, batch=batch, model=model)) for model, workload, batch in asked]
    found = [(each.case.spec.model, each.case.workload, each.case.batch) for each in beside_each_other(given)]
    assert found == [asked[4], asked[2], asked[0], asked[3], asked[1]]


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

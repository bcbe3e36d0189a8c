"""The answer of a run, from records with fixed numbers: what is said first, and in how many lines."""

import dataclasses
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from cnnbench.analysis.answer import Answer, answer, fastest, left_out
from cnnbench.analysis.stats import Estimate
from cnnbench.records.evaluation import Evaluation
from cnnbench.records.reason import Interference, Reason
from cnnbench.records.record import Measurement, Record
from cnnbench.records.run_folder import Run
from cnnbench.report.answer import MAX_LINES, advice, batch_text, fastest_text, figures, lines, question
from cnnbench.report.bounds import bound_tables
from cnnbench.report.tables import run_tables
from cnnbench.report.terminal import print_answer, print_tables
from tests.peaks import peaks
from tests.records import ENVIRONMENT, case, record
from tests.sample_run import WOBBLE, sample_run

NO_DRIVER = "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU."


@pytest.fixture
def sample(tmp_path: Path) -> Run:
    return sample_run(tmp_path)


def run(*records: Record, cases: list[str] | None = None) -> Run:
    return Run(Path("a"), "tiny", "2026", ENVIRONMENT, {each.id: each for each in records}, cases=cases or [])


def timed(runtime: str, ms: float, model: str = "lenet5", workload: str = "inference", batch: int = 8) -> Record:
    return record(case(runtime, workload, model=model, batch=batch), [ms / 1e3 * w for w in WOBBLE])


def text(of: Answer, width: int = 160) -> str:
    console = Console(file=StringIO(), width=width)
    print_answer(console, lines(of, "runs/a/report.html"))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_the_answer_is_ten_lines_with_the_fastest_runtime_the_best_networks_and_how_far_to_trust_it(
    sample: Run,
) -> None:
    assert text(answer(sample), 300).splitlines() == [
        "sample on Testing CPU, 2 threads: 4 networks, inference and training in PyTorch and ONNX Runtime; 19 cases",
        "Inference  ONNX Runtime ×1.81 [1.81, 1.82] as fast as PyTorch, faster in 6 of 7 (batch 1 and 8)",  # 2^(6/7)
        "Training   PyTorch ×1.25 [1.25, 1.25] as fast as ONNX Runtime, faster in 2 of 2 (batch 8)",
        "Networks   mobilenet_v2  5.00 [4.90, 5.10] ms  top-1 72.2 % (published)  100 MiB  ort, batch 1",
        f"Limits     unknown, the machine's peaks were not measured: cnnbench doctor --peaks --into {sample.folder}",
        "Trust      19 of 21 cases are ok, 1 invalid, 1 failed. The 95 % interval is typically ±2.0 % of a time and "
        "±0 % of a ratio. To improve this, use a quieter machine (other processes in 11 % of the blocks).",
        "Wrong      alexnet/training/ort/cpu/fp32/b8 is invalid (the outputs differ from the float64 reference: it "
        "computes something else) and 1 more",
        "Left out   1 case needs CUDA: no driver.",
        "Page       runs/a/report.html",
    ]


@pytest.mark.parametrize("width", [80, 100, 160])
def test_no_line_is_wider_than_the_terminal(sample: Run, width: int) -> None:
    shown = text(answer(sample), width).splitlines()
    assert max(map(len, shown)) <= width
    assert "report.html" in shown[-1]


def test_whatever_was_measured_there_are_at_most_ten_lines(sample: Run) -> None:
    everything = [
        each.model_copy(update={"case": each.case.model_copy(update={"precision": precision, "device": device})})
        for each in sample.records.values()
        for precision in ("fp32", "bf16")
        for device in ("cpu", "cuda")
    ]
    found = answer(run(*everything, cases=["never-reached"]))
    assert len(found.fastest) == 8
    assert len(lines(found, "page")) == MAX_LINES
    assert [line.label for line in lines(answer(run()), "page")] == ["", "Page"]


def test_runtimes_whose_mean_ratio_may_be_1_are_not_told_apart() -> None:
    steady, wobbling = timed("eager", 10), timed("ort", 10)
    (launch,) = wobbling.launches
    seconds = [0.0085, 0.009, 0.0095, 0.01, 0.0105, 0.011, 0.0115, 0.012]
    blocks = [
        block.model_copy(update={"seconds": {"forward": [s]}}) for block, s in zip(launch.blocks, seconds, strict=True)
    ]
    launches = [launch.model_copy(update={"blocks": blocks})]
    wobbling = wobbling.model_copy(update={"measurement": Measurement(launches=launches)})
    assert [each.is_tied for each in fastest([steady, wobbling])] == [True]
    assert "PyTorch and ONNX Runtime cannot be told apart: ×1.0" in text(answer(run(steady, wobbling)))
    assert "cannot be told apart" not in text(answer(run(steady, timed("ort", 9))))


def test_of_three_runtimes_the_fastest_stands_beside_the_second_and_beside_eager() -> None:
    (found,) = fastest([timed("eager", 10), timed("ort", 5), timed("compile", 4)])
    assert (found.backend, found.next) == (("compile",), ("ort",))
    assert found.vs_next.value == pytest.approx(1.25)
    assert found.vs_reference
    assert found.vs_reference.value == pytest.approx(2.5)


def test_a_runtime_stands_beside_another_one_rather_than_beside_itself_with_another_allocator() -> None:
    def keep(of: Record) -> Record:
        return of.model_copy(update={"case": of.case.model_copy(update={"allocator": "keep"})})

    (found,) = fastest([timed("eager", 10), keep(timed("eager", 8)), timed("ort", 5), keep(timed("ort", 4))])
    assert (found.backend, found.next) == (("ort", "keep"), ("eager", "keep"))
    assert found.vs_next.value == pytest.approx(2.0)
    assert fastest_text(found).startswith(
        "ONNX Runtime (memory kept) ×2.00 [2.00, 2.00] as fast as PyTorch (memory kept), ×2.50 [2.50, 2.50] as PyTorch,"
    )
    (found,) = fastest([timed("eager", 10), keep(timed("eager", 8))])
    assert (found.backend, found.next) == (("eager", "keep"), ("eager",))


def test_a_runtime_that_measured_few_of_the_cases_is_not_compared() -> None:
    """Else the fastest would be the one that ran the easiest case alone."""
    pairs = [timed(runtime, ms, batch=batch) for batch in (1, 2, 3) for runtime, ms in (("eager", 10), ("ort", 5))]
    (found,) = fastest([*pairs, timed("compile", 1, batch=1)])
    assert (found.backend, found.next, found.cases) == (("ort",), ("eager",), 3)


def test_a_runtime_that_measured_half_of_the_cases_is_compared_on_those() -> None:
    pairs = [timed(runtime, ms, batch=batch) for batch in (4, 1, 3, 2) for runtime, ms in (("eager", 10), ("ort", 5))]
    (found,) = fastest([*pairs, timed("compile", 4, batch=4), timed("compile", 4, batch=2)])
    assert (found.backend, found.next, found.cases, found.batches) == (("compile",), ("ort",), 2, [2, 4])


def test_cases_are_counted_by_which_runtime_is_faster_for_sure() -> None:
    """ONNX Runtime is 4, 2 and 1 times as fast, and half as fast: 2^(2/4) times on average."""
    times = {1: 2.5, 2: 5.0, 4: 10.0, 8: 20.0}
    pairs = [(timed("eager", 10, batch=batch), timed("ort", ms, batch=batch)) for batch, ms in times.items()]
    (found,) = fastest([each for pair in pairs for each in pair])
    assert (found.faster_in, found.slower_in, found.cases, found.kernel) == (2, 1, 4, 0)
    assert found.vs_next.value == pytest.approx(2**0.5)
    assert found.vs_reference is None
    ties = [dataclasses.replace(found, vs_next=Estimate(1.2, low, 1.5)).is_tied for low in (0.9, 1.0, 1.1, None)]
    assert ties == [True, True, False, False]
    short = [record(case(runtime), [ms / 1e3] * 3) for runtime, ms in (("eager", 10), ("ort", 5))]
    (few,) = fastest(short)
    assert (few.cases, few.faster_in, few.slower_in, few.vs_next.low, few.is_tied) == (1, 0, 0, None, False)
    (most,) = fastest([*short, *pairs[0]])
    assert (most.cases, most.faster_in) == (1, 1), "the other has no interval"
    assert most.vs_next.value == pytest.approx(4.0)
    apart = fastest([timed("ort", 5, workload="training"), timed("eager", 9, workload="training"), *pairs[0]])
    assert [each.workload for each in apart] == ["inference", "training"]


def test_how_far_to_trust_is_the_median_of_what_was_measured() -> None:
    narrow = timed("eager", 10)  # of eight blocks, from the least to the greatest: 2 % to either side
    quiet = record(case("ort"), [0.005] * 8)
    (launch,) = quiet.launches
    kinds = [["swap", "other-processes", "swap"], ["swap"]]
    blocks = [
        block.model_copy(update={"interference": [Interference.model_validate({"kind": k, "amount": 1}) for k in kind]})
        for block, kind in zip(launch.blocks, [*kinds, *[[]] * 6], strict=True)
    ]
    launches = [launch.model_copy(update={"blocks": blocks}), *[launch] * 3]
    ort = quiet.model_copy(update={"measurement": Measurement(launches=launches), "status": "noisy"})
    reasons = [
        Reason(code=code, detail=detail) for code, detail in (("drift", "a"), ("drift", "b"), ("two-modes", "c"))
    ]
    ort = ort.model_copy(update={"reasons": reasons})
    other = timed("compile", 10).model_copy(update={"status": "noisy", "reasons": reasons[2:]})
    wrong = timed("folded", 10).model_copy(update={"status": "failed", "reasons": reasons[:1]})
    found = answer(run(narrow, ort, other, wrong)).trust
    assert found.statuses == {"noisy": 2, "ok": 1, "failed": 1}
    assert list(found.noise.items()) == [("two-modes", 2), ("drift", 1)]
    assert found.interference == {"swap": 2, "other-processes": 1}
    assert (found.blocks, found.launches) == (8 + 4 * 8 + 8, 1)
    assert found.time_half_width == pytest.approx(0.02, abs=1e-3)
    short = record(case("ort"), [0.004] * 3)
    some = answer(run(narrow, short, record(case("compile"), [0.005] * 8))).trust
    assert some.time_half_width == pytest.approx(0.01, abs=1e-3)  # of 2 % and 0 %; the third is not known
    assert some.ratio_half_width == pytest.approx(0.02, abs=1e-3)
    nothing = answer(run(wrong)).trust
    assert (nothing.time_half_width, nothing.ratio_half_width, nothing.launches, nothing.blocks) == (None, None, 0, 0)


def test_a_network_without_the_runtime_that_ratios_are_taken_to_is_not_compared() -> None:
    """Its runtime stands first among those that were measured."""
    (found,) = fastest([timed("ort", 5), timed("ort", 5, batch=1), timed("eager", 10)])
    assert (found.backend, found.next, found.cases) == (("ort",), ("eager",), 1)


def test_cases_of_one_runtime_or_of_other_rounds_have_no_fastest() -> None:
    assert fastest([timed("eager", 10), timed("eager", 10, batch=1)]) == []
    later = timed("ort", 5)
    (launch,) = later.launches
    later = later.model_copy(
        update={"measurement": Measurement(launches=[launch.model_copy(update={"group": "another"})])}
    )
    assert fastest([timed("eager", 10), later]) == []


def test_cases_that_cannot_run_here_are_one_line_for_each_thing_that_is_missing() -> None:
    def absent(runtime: str, code: str, detail: str, **of: str) -> Record:
        reason = Reason.model_validate({"code": code, "detail": detail})
        return record(case(runtime, **of), status="unavailable", reasons=[reason])  # type: ignore[arg-type]

    found = left_out(
        [
            absent("ort", "no-device", "ort on cuda: ONNX Runtime fell back to the CPU", device="cuda"),
            absent("eager", "no-device", f"eager on cuda: {NO_DRIVER}", device="cuda"),
            absent("openvino", "no-runtime", "openvino on cpu: there is no openvino. pip install it"),
        ]
    )
    assert [(each.cases, each.needs, each.detail) for each in found] == [
        (2, "CUDA", "no NVIDIA driver"),
        (1, "openvino", "there is no openvino"),
    ]
    allocators = [
        case("ort", batch=batch).model_copy(update={"allocator": allocator})
        for batch, allocator in ((1, "keep"), (1, "tcmalloc"), (2, "tcmalloc"))
    ]
    reason = Reason(code="no-allocator", detail="ort on cpu: it is not installed")
    others = [record(each, status="unavailable", reasons=[reason]) for each in allocators]
    others += [record(case("folded"), status="unavailable"), timed("eager", 10)]
    assert [(each.cases, each.code, each.needs, each.detail) for each in left_out(others)] == [
        (2, "no-allocator", "tcmalloc", "it is not installed"),
        (1, "no-allocator", "keep", "it is not installed"),
        (1, "other", "", ""),
    ]
    absent_case = absent("eager", "no-device", NO_DRIVER, device="cuda")
    said = text(answer(run(timed("eager", 10), absent_case, cases=["a", "b", absent_case.id])))
    assert "1 case needs CUDA: no NVIDIA driver. 2 cases of the suite not asked for or not reached" in said


def test_networks_without_accuracies_are_told_by_their_time() -> None:
    found = answer(run(timed("eager", 10), timed("ort", 5), timed("eager", 3, model="simple_cnn")))
    assert found.best == []
    assert [(row.model, row.runtime) for row in found.quickest] == [("simple_cnn", "eager"), ("lenet5", "ort")]
    smaller = answer(run(timed("eager", 10), timed("eager", 2, batch=1), timed("ort", 1, batch=1), timed("ort", 5)))
    assert [(row.batch, row.runtime) for row in smaller.quickest] == [(1, "ort")]
    training = timed("eager", 30, workload="training", batch=1)
    assert [row.batch for row in answer(run(training, timed("eager", 10))).quickest] == [8]
    assert answer(run(training)).quickest == []
    assert "simple_cnn 3.00 [2.94, 3.06] ms, lenet5 5.00 [4.90, 5.10] ms; no accuracies to compare" in text(found)


def evaluated(of: Record, correct: int, data: str = "shapes", precision: str = "fp32") -> Record:
    """With so many of 2,000 test images in the right class."""
    evaluation = Evaluation(data=data, images=2000, correct=correct)
    case = of.case.model_copy(update={"precision": precision})
    return of.model_copy(update={"case": case, "evaluation": evaluation})


def test_networks_stand_by_the_accuracy_that_was_measured_and_say_on_what() -> None:
    """In the fastest runtime of each precision; lenet5 in int8 is slower than in float32, and no more accurate."""
    found = answer(
        run(
            evaluated(timed("ort", 5), 1800),
            evaluated(timed("eager", 10), 1801),
            evaluated(timed("ort", 6), 1790, precision="int8"),
            evaluated(timed("ort", 2, model="simple_cnn"), 1600, precision="int8"),
            evaluated(timed("ort", 3, model="simple_cnn"), 1700),
        )
    )
    networks = [line.split("  ", 1)[1].strip() for line in text(found, 300).splitlines() if "top-1" in line]
    assert networks == [
        "simple_cnn  2.00 [1.96, 2.04] ms  top-1 80.0 [78.2, 81.7] % (measured on shapes)  100 MiB  ort/int8, batch 8",
        "simple_cnn  3.00 [2.94, 3.06] ms  top-1 85.0 [83.4, 86.5] % (measured on shapes)  100 MiB  ort, batch 8",
        "lenet5      5.00 [4.90, 5.10] ms  top-1 90.0 [88.6, 91.2] % (measured on shapes)  100 MiB  ort, batch 8",
    ]
    assert "simple_cnn in ONNX Runtime int8, batch 8: top-1 80.0 [78.2, 81.7]\u00a0% (measured on shapes)" in [
        each.what.partition(", 100")[0] for each in figures(found)
    ]


def test_accuracies_of_other_data_and_published_ones_are_never_ranked_against_each_other(sample: Run) -> None:
    """The published front is of the networks that were not evaluated: without mobilenet_v2, alexnet is on it."""
    changed = {id_: each for id_, each in sample.records.items() if each.case.batch == 1}
    for id_ in [id_ for id_ in changed if id_.startswith("mobilenet_v2/inference")]:
        changed[id_] = evaluated(changed[id_], 1000)
    others = [evaluated(timed("ort", 1, model=model, batch=1), 1900, "digits") for model in ("lenet5", "simple_cnn")]
    found = answer(dataclasses.replace(sample, records=changed | {each.id: each for each in others}))
    assert [(each.point.row.model, each.point.data, each.point.top1) for each in found.best] == [
        ("lenet5", "digits", 95.0),
        ("simple_cnn", "digits", 95.0),
        ("mobilenet_v2", "shapes", 50.0),
        ("alexnet", "", 56.5),
        ("resnet18", "", 69.8),
    ]
    assert [line.text.split()[0] for line in lines(found) if "top-1" in line.text] == [
        "lenet5,",
        "simple_cnn,",
        "mobilenet_v2,",
    ]
    assert "top-1 50.0 [47.8, 52.2] % (measured on shapes)" in text(found, 300)


def test_a_network_alone_has_the_accuracy_that_was_measured() -> None:
    assert "top-1 90.0 [88.6, 91.2] % (measured on shapes)" in text(answer(run(evaluated(timed("ort", 5), 1800))))


def test_what_limits_the_best_networks_is_said_where_peaks_are_known(sample: Run) -> None:
    records = {
        id_: each.model_copy(update={"case": each.case.model_copy(update={"threads": 2})})
        for id_, each in sample.records.items()
    }
    (limits,) = (
        line.text
        for line in lines(answer(dataclasses.replace(sample, records=records, peaks=[peaks()])), "page")
        if line.label == "Limits"
    )
    assert limits.startswith("mobilenet_v2/t2 (")
    assert "is compute-bound" in limits or "is memory-bound" in limits


def test_what_would_make_the_numbers_better_is_said_by_why_they_are_not() -> None:
    wide = timed("eager", 10).model_copy(update={"status": "noisy", "reasons": [Reason(code="wide-interval")]})
    drift = timed("eager", 10).model_copy(update={"status": "noisy", "reasons": [Reason(code="drift", detail="x")]})
    assert advice(answer(run(timed("eager", 10)))) == []
    assert advice(answer(run(wide))) == [
        "To improve this, rerun with a larger --budget: 1 interval reaches beyond ±5 %, and most cases were measured "
        "in 1 process."
    ]
    assert "fix the clock frequency" in advice(answer(run(drift)))[0]


def test_there_are_three_to_five_figures_with_intervals(sample: Run) -> None:
    found = figures(answer(sample))
    assert [(each.value, each.interval) for each in found] == [
        ("×1.81", "[1.81, 1.82]"),
        ("×1.25", "[1.25, 1.25]"),
        ("5.00 ms", "[4.90, 5.10]"),
        ("±2.0 %", ""),
    ]
    assert "ONNX Runtime beside PyTorch, batch 1 and 8, geometric mean of 7 cases" in found[0].what
    assert "mobilenet_v2 in ONNX Runtime, batch 1: top-1 72.2\u00a0% (published)" in found[2].what


def test_every_figure_says_its_batch_and_its_allocator() -> None:
    kept = timed("eager", 10, model="mobilenet_v2")
    kept = kept.model_copy(update={"case": kept.case.model_copy(update={"allocator": "keep"})})
    found = answer(run(kept, timed("eager", 20, model="mobilenet_v2"), timed("eager", 9, model="lenet5", batch=64)))
    (ratio, time, _) = figures(found)
    assert "PyTorch (memory kept) beside PyTorch, batch 8," in ratio.what
    assert "mobilenet_v2/k10 in PyTorch (memory kept), batch 8" in time.what
    assert batch_text([8, 64]) == "batch 8 and 64"
    assert batch_text([1, 2, 4, 8]) == "batch 1 to 8"


def test_the_title_asks_what_the_run_answers() -> None:
    networks = [timed("eager", 10), timed("eager", 10, model="simple_cnn")]
    assert question(answer(run())) == "tiny"
    assert question(answer(run(timed("eager", 10)))) == "lenet5, in PyTorch: how fast, and why?"
    several = answer(run(*networks, timed("ort", 5), timed("compile", 5)))
    runtimes = "PyTorch, ONNX Runtime or compile"
    assert question(several) == f"Which of 2 networks, in {runtimes}: how fast, and why?"


@pytest.mark.parametrize("width", [80, 110, 240])
def test_tables_fit_the_terminal_and_say_which_columns_did_not(sample: Run, width: int) -> None:
    long = "torchvision/deeplabv3_mobilenet_v3_large@1024x2048/k21/w:best.safetensors"
    named = record(case("eager", model=long), [0.01 * w for w in WOBBLE])
    tables = run_tables(dataclasses.replace(sample, records=sample.records | {named.id: named}))
    console = Console(file=StringIO(), width=width)
    print_tables(console, [*tables, *bound_tables(sample)])
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, shown.splitlines())) <= width
    assert ("Not shown at this width: " in shown) == (width < 240)
    assert "…" not in shown, "nothing is cut"
    assert "safetensors" in "".join(shown.split())
    inference = shown[shown.index("Inference") : shown.index("Training")]
    assert "vs eager" in inference

"""The kernel's share of a case's time: counted, shown beside every ratio that it touches, and named as a cause."""

from dataclasses import replace
from pathlib import Path

import pytest

from cnnbench.analysis import kernel
from cnnbench.analysis.cases import case_rows
from cnnbench.analysis.explain import explain
from cnnbench.analysis.paired import Rule
from cnnbench.gate.pairs import Pair
from cnnbench.gate.procedure import run_gate
from cnnbench.gate.verdict import ArmComparison, Paired
from cnnbench.networks import registry
from cnnbench.records.record import CountsSummary, Ran, Record, Usage
from cnnbench.records.run_folder import Run
from cnnbench.report.prose import kernel_paragraph
from cnnbench.report.sections import run_page
from cnnbench.report.table import Table
from cnnbench.report.tables import run_tables
from cnnbench.suite.case import Allocator
from tests.noise import QUIET, Simulated
from tests.peaks import peaks
from tests.records import ENVIRONMENT, case, record

SAMPLES = 2
NET = registry.get("mobilenet_v2").network()


def measured(runtime: str, call_s: float, kernel_share: float, allocator: Allocator = "default") -> Record:
    """A training case of MobileNetV2 whose blocks spend such a share of their CPU time in the kernel."""
    of = case(runtime, "training", model="mobilenet_v2").model_copy(update={"allocator": allocator})
    of = of.model_copy(update={"spec": of.spec.model_copy(update={"classes": None, "image_size": None})})
    made = record(of, [call_s] * 7, samples=SAMPLES)
    assert made.measurement
    (launch,) = made.measurement.launches
    usage = Usage(user_s=1 - kernel_share, kernel_s=kernel_share, minor_faults=268_000, major_faults=0)
    blocks = [block.model_copy(update={"usage": usage}) for block in launch.blocks]
    measurement = made.measurement.model_copy(update={"launches": [launch.model_copy(update={"blocks": blocks})]})
    counts = CountsSummary(params=1, macs=NET.macs, closed_form=True, counters=[], disagreements=[])
    return made.model_copy(update={"measurement": measurement, "counts": counts})


def run(*records: Record) -> Run:
    return Run(Path("a"), "tiny", "2026", ENVIRONMENT, {each.id: each for each in records}, peaks=[peaks()])


EAGER = measured("eager", 0.8, 0.62)
KEPT = measured("eager", 0.44, 0.05, "keep")
ORT = measured("ort", 0.4, 0.1)


def table(of: Run, name: str) -> Table:
    return next(table for table in run_tables(of) if table.name == name)


def test_the_share_is_of_cpu_time_and_faults_are_by_call() -> None:
    assert kernel.kernel_share(EAGER.launches) == pytest.approx(0.62)
    (launch,) = EAGER.launches
    on_cuda = Ran(device="cuda", device_name="NVIDIA H200", threads=1, precision="fp32")
    elsewhere = launch.model_copy(update={"ran": on_cuda})  # the kernel's time is that of the device's driver
    assert kernel.kernel_share([elsewhere]) is None
    assert kernel.faults_per_call(EAGER.launches) == 268_000 / SAMPLES
    four = launch.model_copy(update={"calls_per_sample": 4})
    assert kernel.faults_per_call([four]) == 268_000 / SAMPLES / 4
    assert kernel.faults_per_call([four, launch]) == pytest.approx(2 * 268_000 / SAMPLES / 5)
    on_cpu = launch.model_copy(update={"ran": on_cuda.model_copy(update={"device": "cpu"})})
    assert kernel.kernel_share([on_cpu, elsewhere]) == pytest.approx(0.62)
    assert kernel.kernel_share([*EAGER.launches, *KEPT.launches]) == pytest.approx((0.62 + 0.05) / 2)
    nothing = Usage(user_s=0.0, kernel_s=0.0, minor_faults=0, major_faults=0)
    idle = launch.model_copy(
        update={"blocks": [block.model_copy(update={"usage": nothing}) for block in launch.blocks]}
    )
    assert (kernel.kernel_share([idle]), kernel.faults_per_call([idle])) == (None, 0)
    assert [kernel.spends_much(ORT, each) for each in (ORT, EAGER)] == [False, True]
    untold = record(case(), [0.1] * 7)
    assert (kernel.kernel_share(untold.launches), kernel.faults_per_call(untold.launches)) == (None, None)
    assert not kernel.spends_much(untold, None)
    assert [kernel.is_much(share) for share in (None, 0.0, 0.2, 0.21)] == [False, False, False, True]


def test_each_runtime_is_compared_as_it_stands_and_at_its_best_allocator() -> None:
    slower = measured("ort", 0.5, 0.0, "keep")
    eager, ort = kernel.standings([EAGER, KEPT, ORT, slower])
    assert (eager.default, eager.best, eager.vs_reference) == (EAGER, KEPT, None)
    assert eager.default_costs is not None
    assert eager.default_costs.value == pytest.approx(0.8 / 0.44)
    assert (ort.default, ort.best, ort.default_costs) == (ORT, ORT, None)
    assert ort.vs_reference is not None
    assert ort.vs_reference.value == pytest.approx(2.0)
    assert ort.best_vs_reference is not None
    assert ort.best_vs_reference.value == pytest.approx(1.1)
    assert ort.kernel  # for eager's sake


def test_another_allocator_is_the_best_only_where_it_was_measured_well_and_is_faster() -> None:
    same, wrong = measured("ort", 0.4, 0.0, "keep"), KEPT.model_copy(update={"status": "invalid"})
    ort, eager = kernel.standings([ORT, same, EAGER, wrong])
    assert (ort.best, ort.default_costs, eager.best, eager.default_costs) == (ORT, None, EAGER, None)
    assert ort.best_vs_reference == ort.vs_reference
    assert [each.kernel for each in (ort, eager)] == [True, True]
    assert [each.kernel for each in kernel.standings([measured("eager", 0.8, 0.1), ORT])] == [False, False]
    assert kernel.standings([ORT, same, KEPT]) == [], "nothing is the reference"
    large = [each.model_copy(update={"case": each.case.model_copy(update={"batch": 16})}) for each in (ORT, EAGER)]
    assert [each.default for each in kernel.standings([ORT, *large])] == large, "of the same batch"
    of = measured("eager", 0.4, 0.1)
    last = of.model_copy(update={"case": of.case.model_copy(update={"layout": "channels_last"})})
    first, reference = kernel.standings([last, EAGER])
    assert (first.default, reference.default, reference.vs_reference) == (last, EAGER, None)
    assert first.vs_reference is not None
    assert first.vs_reference.value == pytest.approx(2.0)


def test_a_case_is_told_the_fastest_of_its_own_allocators_alone() -> None:
    slower = measured("eager", 0.9, 0.0, "jemalloc")
    fast = measured("eager", 0.1, 0.0, "tcmalloc")
    others = [
        fast.model_copy(update={"case": fast.case.model_copy(update=update)})
        for update in ({"layout": "channels_last"}, {"batch": 4}, {"precision": "amp-bf16"})
    ]
    found = kernel.kept([KEPT, slower, ORT, *others, EAGER])
    assert list(found) == [EAGER.id]
    other, ratio = found[EAGER.id]
    assert other is KEPT
    assert ratio.value == pytest.approx(0.44 / 0.8)


def test_a_ratio_that_the_kernel_touches_is_marked_wherever_it_stands() -> None:
    of = run(EAGER, KEPT, ORT)
    training = table(of, "training")
    ratios = dict(zip(training.cells["backend"], training.cells["vs eager"], strict=True))
    assert ratios == {"eager/cpu": "–", "eager/cpu/keep": "×1.82 [1.82, 1.82] K", "ort/cpu": "×2.00 [2.00, 2.00] K"}
    assert list(training.cells["kernel"]) == ["62 %", "5.0 %", "10 %"]
    assert training.notes[0].startswith("K: one of the two runtimes spends more than 20 % of its CPU time in")
    runtimes = table(of, "runtimes")
    rows = {row["backend"]: row for row in runtimes.cells.to_dict("records")}
    assert rows["ort/cpu"]["vs eager"] == "×2.00 [2.00, 2.00]"
    assert rows["ort/cpu"]["with K"] == "1"
    assert rows["ort/cpu"]["at best allocators"] == "×1.10 [1.10, 1.10]"
    assert rows["eager/cpu"]["default costs"] == "×1.82 [1.82, 1.82]"
    section = next(each for each in run_page(of, run_tables(of)).sections if each.id == "runtimes")
    said = " ".join(section.prose)
    assert said.count("In 2 of these ratios one of the two runtimes spends more than 20 % of its CPU time") == 1


def test_a_ratio_that_it_does_not_touch_is_not_marked() -> None:
    of = run(measured("eager", 0.8, 0.1), ORT)
    assert not any(row.kernel_in_ratio for row in case_rows(list(of.records.values())))
    training = table(of, "training")
    assert "kernel" not in training.headings
    assert training.notes == []
    assert kernel_paragraph(explain(of).values()) == ""


def test_the_kernel_is_a_bound_of_its_own_where_its_share_is_the_largest() -> None:
    of = run(EAGER, KEPT, ORT)
    bounds = {each.case.backend: each.roofline.bound for each in explain(of).values()}
    assert bounds["eager/cpu"] == "kernel"
    assert bounds["eager/cpu/keep"] != "kernel"
    unknown = Run(Path("a"), "tiny", "2026", ENVIRONMENT, of.records)
    assert [each.roofline.bound for each in explain(unknown).values()] == ["kernel", None, None]


def test_the_page_names_the_kernel_and_what_memory_kept_is_worth() -> None:
    of = run(EAGER, KEPT, ORT)
    section = next(each for each in run_page(of, run_tables(of)).sections if each.id == "why")
    assert section.prose[-1].endswith(
        "mobilenet_v2, training, eager/cpu, batch 8: 62 %, with 134,000 page faults in each call; with allocator keep "
        "the call takes 0.55 of the time."
    )


def test_a_gate_of_two_runtimes_says_so_too() -> None:
    assert EAGER.measurement
    assert ORT.measurement
    (base,), (head,) = EAGER.launches, ORT.launches
    pair = Pair(comparison="c", stage="screen", number=1, order=["base", "head"], launches={"base": base, "head": head})
    assert pair.paired().in_kernel
    same = pair.model_copy(update={"launches": {"base": head, "head": head}})
    assert not same.paired().in_kernel

    class InKernel(Simulated):
        def measure(self, comparison: ArmComparison, stage, order, number, scale) -> Paired:  # type: ignore[no-untyped-def]
            return replace(super().measure(comparison, stage, order, number, scale), in_kernel=True)

    simulated = InKernel(QUIET, 1)
    two = [ArmComparison(EAGER.case, ORT.case, 1.0), ArmComparison(EAGER.case, EAGER.case, 1.0)]
    (note,) = run_gate(two, simulated, simulated, Rule(), 1e9, 1, clock_s=simulated.clock).notes
    assert note.startswith(f"{two[0].name}: one of the two runtimes spends more than 20% of its CPU time in the")

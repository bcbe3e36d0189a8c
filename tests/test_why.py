"""Why a model is as fast as it is: a sentence for each runtime from fixed numbers, compared whole."""

import dataclasses
import json
from functools import partial
from pathlib import Path

import pytest

import cnnbench
from cnnbench.analysis.explain import explain, telling
from cnnbench.networks import registry
from cnnbench.records.environment import Threads
from cnnbench.records.layer_profile import PROFILES, ModelProfile, Row, Times, append_profiles, read_profiles
from cnnbench.records.record import CountsSummary, Record
from cnnbench.records.run_folder import Run
from cnnbench.report import prose
from cnnbench.report.bounds import bound_tables
from cnnbench.report.table import figure, hidden, table_of
from cnnbench.runner import run as runner
from cnnbench.runner.tasks import peaks as peaks_task
from cnnbench.runner.tasks.peaks import measure_peaks
from tests.conftest import write_suite
from tests.peaks import KIB, peaks
from tests.records import ENVIRONMENT, case, record


def measured(model: str, call_s: float, runtime: str = "eager", batch: int = 1) -> Record:
    of = case(runtime, batch=batch, model=model)
    of = of.model_copy(update={"spec": of.spec.model_copy(update={"classes": None, "image_size": None})})
    macs = registry.get(model).network().macs
    summary = CountsSummary(params=1, macs=macs, closed_form=True, counters=[], disagreements=[])
    return record(of, [call_s] * 7).model_copy(update={"counts": summary})


def run(*records: Record) -> Run:
    environment = ENVIRONMENT.model_copy(update={"threads": Threads(used=(2,), usable=2)})
    found = [each.model_copy(update={"environment": environment}) for each in records]
    return Run(Path("a"), "tiny", "2026", environment, {each.id: each for each in found}, peaks=[peaks()])


def sentences(of: Run) -> dict[tuple[str, str], str]:
    """By model and runtime."""
    return {(each.of.case.label, each.of.case.runtime): each.sentence for each in prose.causes(explain(of).values())}


@pytest.fixture
def two() -> Run:
    return run(measured("resnet50", 0.2), measured("efficientnet_b0", 0.05), measured("resnet50", 0.1, "ort"))


def profile() -> ModelProfile:
    """Of 50 ms of EfficientNet-B0: 20 in depthwise convolutions, 15 in normalisation, 5 in activations, 10 between."""
    rows = (
        Row(
            name="features.1.0.block.0.0",
            kind="Conv",
            work="depthwise convolutions",
            macs=36_000_000,
            moved_bytes=40_000_000,
            seconds={"eager": 0.02},
        ),
        Row(name="bn", kind="BatchNorm", work="normalisation", macs=0, moved_bytes=10**7, seconds={"eager": 0.015}),
        Row(name="act", kind="Activation", work="activations", macs=0, moved_bytes=10**6, seconds={"eager": 0.005}),
    )
    times = {"eager": Times(layers_s=0.04, other={}, outside_s=0.06, quartiles_s=(0.1, 0.1))}
    return ModelProfile(
        model="efficientnet_b0", input_shape=(3, 224, 224), batch=1, calls=5, threads=2, rows=rows, times=times
    )


def test_a_sentence_says_where_the_time_goes_and_what_limits_the_call(two: Run) -> None:
    text = sentences(dataclasses.replace(two, profiles=[profile()]))["efficientnet_b0", "eager"]
    # 72 MFLOP in 40 % of 50 ms, of 100 GFLOP/s: 3.6 %; 40 MB at 10 GB/s are 4 ms, 0.72 ms of arithmetic.
    assert text.startswith(
        "depthwise convolutions 40 % (3.6 % of peak, memory-bound, 5.0 times slower than the lower bound), "
        "normalisation 30 % (no MACs, memory-bound, 15 times slower than the lower bound), "
        "framework overhead between operators 20 %; the call reaches 15 % of peak and is mostly "
    )


def test_the_runtimes_of_a_model_stand_beside_each_other_and_beside_the_heaviest_model(two: Run) -> None:
    (table,) = (each for each in bound_tables(two) if each.name == "causes")
    cells = table.cells.drop(columns=["cause", "bound / time"]).to_numpy().tolist()
    assert cells == [
        ["resnet50", "PyTorch", "4.09 G", "100 %", "200", "100 %"],
        ["resnet50", "ONNX Runtime", "4.09 G", "100 %", "100", "100 %"],
        ["efficientnet_b0", "PyTorch", "386 M", "9.4 %", "50.0", "25 %"],
    ]
    assert "Inference, batch 1." in table.caption


def test_without_a_profile_a_sentence_says_on_what_it_rests(two: Run) -> None:
    assert sentences(two)["efficientnet_b0", "eager"].startswith("no layer profile; ")


def test_without_peaks_what_limits_a_model_is_unknown(two: Run) -> None:
    unknown = dataclasses.replace(two, peaks=[], profiles=[profile()])
    text = sentences(unknown)["efficientnet_b0", "eager"]
    assert text.endswith("; limits unknown")
    assert "of peak" not in text
    tables = {table.name: table for table in bound_tables(unknown)}
    assert "peaks" not in tables
    assert tables["causes"].notes == [prose.UNKNOWN_PEAKS]
    assert set(tables["bounds"].cells["bound by"]) == {"unknown"}
    assert set(tables["bounds"].cells["% of peak"]) == {"unknown"}


def test_the_batch_that_most_models_have_is_told_of_and_of_several_the_smallest() -> None:
    cases = [measured("resnet18", 0.1, batch=batch).case for batch in (1, 8, 64)] + [
        measured("lenet5", 0.1, batch=batch).case for batch in (8, 64)
    ]
    assert {each.batch for each in telling(cases)} == {8}
    assert telling([]) == []
    on_cuda = [each.model_copy(update={"device": "cuda"}) for each in cases]
    assert {(each.device, each.batch) for each in telling([*on_cuda, *cases])} == {("cuda", 8)}
    kept = [each.model_copy(update={"allocator": "keep"}) for each in cases]
    last = [each.model_copy(update={"layout": "channels_last"}) for each in cases]
    steps = [each.model_copy(update={"workload": "training"}) for each in cases]
    assert telling([*kept, *last, *steps]) == []


def test_tables_show_each_case_beside_its_lower_bound(two: Run) -> None:
    tables = {table.name: table for table in bound_tables(dataclasses.replace(two, profiles=[profile()]))}
    assert list(tables) == ["causes", "peaks", "bounds", "parts", "layers"]
    row = tables["bounds"].cells.iloc[0]
    assert (row["model"], row["GFLOP/s"], row["% of peak"], row["bound by"]) == ("resnet50", "40.9", "41 %", "compute")
    assert tables["parts"].cells["work"].tolist() == ["depthwise convolutions", "normalisation", "activations"]
    assert tables["parts"].cells["% of peak"].tolist() == ["3.6 %", "–", "–"]
    assert all(len(table.cells) == len(table.data) for table in tables.values())


def test_invalid_records_are_not_explained() -> None:
    bad = measured("resnet50", 0.2).model_copy(update={"status": "invalid"})
    assert explain(run(bad)) == {}
    assert sentences(run(bad)) == {}


def test_profiles_come_back_from_a_folder_and_the_later_counts(tmp_path: Path) -> None:
    assert read_profiles(tmp_path) == ([], [])
    append_profiles(tmp_path, [profile(), profile().model_copy(update={"calls": 9})])
    with (tmp_path / "profiles.jsonl").open("a") as file:
        file.write("{\n")
    found, unreadable = read_profiles(tmp_path)
    assert found == [profile().model_copy(update={"calls": 9})]
    assert unreadable == [f"{tmp_path / 'profiles.jsonl'}: not read: line 3: it is cut short or is not JSON"]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("rows", 0, "macs"), 10**400),
        (("rows", 0, "moved_bytes"), -1),
        (("rows", 0, "seconds", "eager"), 1e-300),
        (("rows", 0, "seconds", "eager"), -1.0),
        (("rows", 0, "name"), None),
        (("rows",), {}),
        (("times", "eager", "layers_s"), 1e300),
        (("times", "eager", "outside_s"), -0.04),
        (("times", "eager", "other"), {"copy": float("inf")}),
        (("times", "eager", "quartiles_s"), [0.1]),
        (("batch",), 0),
        (("model",), "x" * 200_000),
    ],
)
def test_a_profile_that_no_profiler_gives_is_told_and_left_out(
    tmp_path: Path, place: tuple[str | int, ...], value: object
) -> None:
    content = json.loads(profile().model_dump_json())
    part = content
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    (tmp_path / PROFILES).write_text(f"{json.dumps(content)}\n{profile().model_dump_json()}\n")
    found, (unreadable,) = read_profiles(tmp_path)
    assert found == [profile()]
    assert f"{PROFILES}: not read: line 1: " in unreadable


SUITE = """
name: tiny
launches: 1
defaults: {workloads: [inference], batches: [1], case_budget: 0.2s}
models: [lenet5]
"""


def test_a_run_that_is_long_enough_measures_what_its_reasons_rest_on(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "MIN_RUN_TO_EXPLAIN_S", 0.0)
    short = partial(measure_peaks, kernel_s=0.002, largest_set_bytes=128 * KIB)
    monkeypatch.setattr(peaks_task, "measure_peaks", short)
    results = cnnbench.run(write_suite(home, SUITE), out="out")
    (found,), (profiled,) = results.run.peaks, results.run.profiles
    assert found.flops_per_s("fp32") is not None
    assert (profiled.model, profiled.batch, profiled.threads) == ("lenet5", 1, found.threads)
    assert set(profiled.times) == {"eager", "ort"}
    assert all("the call reaches" in sentence for sentence in sentences(results.run).values())
    assert set(sentences(results.run)) == {("lenet5", "eager"), ("lenet5", "ort")}
    assert "why" in {section.id for section in results.page.sections}


def test_a_model_without_macs_is_told_beside_the_others(two: Run) -> None:
    pool = measured("resnet18", 0.01)
    assert pool.counts
    pool = pool.model_copy(update={"counts": pool.counts.model_copy(update={"macs": 0})})
    (table,) = (each for each in bound_tables(run(*two.records.values(), pool)) if each.name == "causes")
    assert table.texts[-1][:6] == ["resnet18", "PyTorch", "0", "0 %", "10.0", "5.0 %"]


def test_a_record_at_a_size_that_its_formula_refuses_is_explained_without_it() -> None:
    small = measured("alexnet", 0.01)
    spec = small.case.spec.model_copy(update={"image_size": (1, 1)})
    small = small.model_copy(update={"case": small.case.model_copy(update={"spec": spec})})
    (explained,) = explain(run(small)).values()
    assert explained.roofline.layers == ()


def test_a_count_beyond_64_bits_is_a_figure_in_the_files() -> None:
    table = table_of("t", "T", "", [2**70, 1], [figure("n", float, key="n"), hidden("exact", lambda row: row)])
    assert list(table.data["exact"]) == [float(2**70), 1.0]

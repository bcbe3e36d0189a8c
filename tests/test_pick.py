"""The choice from measured runs: what meets bounds with its whole interval, what may, what just fails."""

import dataclasses
import json
from pathlib import Path

import pytest

from cnnbench.analysis.pick import Bounds, Check, Picked, pick
from cnnbench.analysis.stats import Estimate
from cnnbench.records.evaluation import Evaluation
from cnnbench.records.record import Measurement, Record
from cnnbench.records.run_folder import Run
from cnnbench.report.chooser import chooser
from cnnbench.report.picked import failure, picked_lines, picked_tables
from cnnbench.suite.case import Case
from tests.conftest import Cli
from tests.records import ENVIRONMENT, case, record, write_records
from tests.sample_run import sample_run


@pytest.fixture
def sample(tmp_path: Path) -> Run:
    """In ort: alexnet 14 [13.7, 14.3] ms and 56.5 %, resnet18 20 and 69.8, mobilenet_v2 5 and 72.2; eager is half."""
    return sample_run(tmp_path)


def names(picked: Picked) -> list[list[str]]:
    lists = (picked.meets, picked.may, picked.unknown, picked.fails)
    return [[f"{each.record.case.spec.model} {each.record.case.runtime}" for each in found] for found in lists]


@pytest.mark.parametrize(
    ("bounds", "meets", "may", "first_that_fails"),
    [
        ({"p50": 15.0}, ["mobilenet_v2 ort", "mobilenet_v2 eager", "alexnet ort"], [], "resnet18 ort"),
        ({"p50": 14.0}, ["mobilenet_v2 ort", "mobilenet_v2 eager"], ["alexnet ort"], "resnet18 ort"),
        ({"p50": 15.0, "accuracy": 60.0}, ["mobilenet_v2 ort", "mobilenet_v2 eager"], [], "alexnet ort"),
        ({"accuracy": 72.2}, ["mobilenet_v2 ort", "mobilenet_v2 eager"], [], "resnet18 ort"),
        ({"p50": 1.0}, [], [], "mobilenet_v2 ort"),
        ({"memory": 104.9}, ["mobilenet_v2 ort", "mobilenet_v2 eager", "alexnet ort", "resnet18 ort"], [], None),
        ({"memory": 104.8}, [], [], "mobilenet_v2 ort"),
    ],
)
def test_candidates_are_judged_by_their_whole_interval(
    sample: Run, bounds: Bounds, meets: list[str], may: list[str], first_that_fails: str | None
) -> None:
    found = names(pick([sample], bounds))
    assert found[0][: len(meets)] == meets
    assert len(found[0]) == len(meets) or first_that_fails is None
    assert found[1:3] == [may, []]
    assert (found[3][0] if found[3] else None) == first_that_fails


@pytest.mark.parametrize(
    ("metric", "bound", "figure", "verdict"),
    [
        ("p50", 10.0, Estimate(9, 8, 10), "meets"),
        ("p50", 10.0, Estimate(9, 8, 10.1), "may"),
        ("p50", 10.0, Estimate(11, 10, 12), "may"),
        ("p50", 10.0, Estimate(11, 10.1, 12), "fails"),
        ("p50", 10.0, Estimate(1), "may"),
        ("memory", 10.0, None, "unknown"),
        ("accuracy", 70.0, Estimate(70, 70, 70), "meets"),
        ("accuracy", 70.0, Estimate(71, 69, 72), "may"),
        ("accuracy", 70.0, Estimate(69, 68, 69.9), "fails"),
    ],
)
def test_a_bound_is_met_only_with_the_whole_interval(
    metric: str, bound: float, figure: Estimate | None, verdict: str
) -> None:
    assert Check(metric, bound, figure).verdict == verdict  # type: ignore[arg-type]


def test_those_that_fail_are_nearest_first_and_say_by_what(sample: Run) -> None:
    picked = pick([sample], {"p50": 15.0, "accuracy": 70.0})
    assert names(picked)[3][:2] == ["alexnet ort", "resnet18 ort"]  # of one bound, then the least of two
    told = {f"{each.record.case.spec.model} {each.record.case.runtime}": failure(each) for each in picked.fails}
    assert told["alexnet ort"] == "top-1 56.5 % is 14 points below the bound"
    assert told["resnet18 ort"] == (
        "p50 20.0 [19.6, 20.4] ms is 33 % above the bound and top-1 69.8 % is 0.20 points below the bound"
    )
    assert "p50 40.0 [39.2, 40.8] ms is 2.7 times the bound" in told["resnet18 eager"]
    assert picked_tables(picked)[-1].name == "fail"
    assert len(picked_tables(picked)[-1].rows) == 3


def test_candidates_whose_intervals_overlap_share_a_rank_and_the_more_accurate_comes_first(tmp_path: Path) -> None:
    sample = sample_run(tmp_path)

    def like(id_: str, of: str) -> Record:
        return sample.records[id_].model_copy(update={"measurement": sample.records[of].measurement})

    alexnet, resnet = (f"{model}/inference/ort/cpu/fp32/b1" for model in ("alexnet", "resnet18"))
    records = sample.records | {alexnet: like(alexnet, resnet)}
    picked = pick([dataclasses.replace(sample, records=records)], {"p50": 25.0, "accuracy": 50.0})
    ranks = [(each.record.case.spec.model, each.rank, each.tied) for each in picked.meets]
    assert ranks[:2] == [("mobilenet_v2", 1, False), ("mobilenet_v2", 2, False)]
    assert ranks[2:] == [("resnet18", 3, True), ("alexnet", 3, True)]
    assert "3=" in [row[0] for row in picked_tables(picked)[0].texts]


def evaluated(of: Record, correct: int, data: str) -> Record:
    """With so many of 1,000 test images in the right class."""
    return of.model_copy(update={"evaluation": Evaluation(data=data, images=1000, correct=correct)})


def test_accuracy_is_that_measured_on_one_data_set_or_published_and_never_both(sample: Run) -> None:
    """alexnet, of 56.5 % published, is measured on shapes: 91 [89.1, 92.6] % in ort and 90 [88.0, 91.7] % in eager."""
    alexnet, eager = (f"alexnet/inference/{runtime}/cpu/fp32/b1" for runtime in ("ort", "eager"))
    resnet, mobilenet = (f"{model}/inference/ort/cpu/fp32/b1" for model in ("resnet18", "mobilenet_v2"))
    changed = {
        alexnet: evaluated(sample.records[alexnet], 910, "shapes"),
        eager: evaluated(sample.records[eager], 900, "shapes"),
        resnet: evaluated(sample.records[resnet], 910, "shapes"),
        mobilenet: evaluated(sample.records[mobilenet], 990, "digits"),
    }
    sample = dataclasses.replace(sample, records=sample.records | changed)
    picked = pick([sample], {"accuracy": 89.0})
    assert picked.data == "shapes", "of two networks, digits of one"
    meets, may, unknown, fails = names(picked)
    assert (meets, may, fails) == (["alexnet ort", "resnet18 ort"], ["alexnet eager"], [])
    assert "mobilenet_v2 ort" in unknown, "neither its 99 % on digits nor its 72.2 % published counts"
    said = picked_lines(picked)
    assert said[0].startswith("Inference, batch 1, with top-1 (measured on shapes) at least 89.0 %: 2 meet, 1 may meet")
    assert "top-1 91.0 [89.1, 92.6] %. The next" in said[1]
    networks = "mobilenet_v2 and resnet18: cnnbench evaluate mobilenet_v2 --weights FILE --data shapes"
    assert f"No accuracy is measured on shapes for {networks}" in said
    table = picked_tables(picked)[0]
    assert "top-1: measured on shapes with what was timed [95 % interval]." in table.caption
    assert table.data["accuracy_source"].tolist() == ["measured on shapes"] * 2
    sliders = chooser(sample)
    assert sliders is not None
    assert "top-1 %, measured on shapes" in [slider.label for slider in sliders.sliders]
    assert names(pick([sample], {"accuracy": 89.0}, data="digits"))[0] == ["mobilenet_v2 ort"]
    published = pick([sample], {"accuracy": 70.0}, data="")
    assert names(published)[0] == ["mobilenet_v2 ort", "mobilenet_v2 eager"]
    assert "(published) at least 70.0 %" in picked_lines(published)[0]


def test_the_command_that_evaluates_names_the_model_with_its_size_and_classes(tmp_path: Path) -> None:
    of = case("ort", batch=1, model="mobilenet_v2")
    spec = of.spec.model_copy(update={"image_size": (96, 96), "weights": "w.safetensors"})
    made = record(of.model_copy(update={"spec": spec}), [0.01] * 8)
    said = picked_lines(pick([Run(tmp_path, "t", "?", ENVIRONMENT, {made.id: made})], {"accuracy": 90.0}))
    command = "cnnbench evaluate mobilenet_v2 --image-size 96x96 --classes 10 --weights FILE --data DIR"
    assert f"No accuracy is published at its size for mobilenet_v2@96x96/k10/w:w.safetensors: {command}" in said


def test_the_best_is_told_with_the_lead_over_the_next(sample: Run) -> None:
    summary, best, *_ = picked_lines(pick([sample], {"p50": 15.0, "memory": 200.0}))
    assert summary == (
        "Inference, batch 1, with p50 at most 15.0 ms and memory at most 200 MB: 3 meet, 0 may meet, 3 fail."
    )
    assert best.startswith("Best: mobilenet_v2 in ONNX Runtime, p50 5.00 [4.90, 5.10] ms, memory 105 MB. The next, ")
    assert "mobilenet_v2 in PyTorch, takes ×2.00 [" in best


def test_the_command_that_measures_what_is_missing_is_told(sample: Run) -> None:
    not_reached = "vgg_style/inference/ort/cpu/fp32/b1"
    sample = dataclasses.replace(sample, cases=[*sample.records, not_reached, "vgg_style/inference/ort/cpu/fp32/b16"])
    lines = picked_lines(pick([sample], {"p50": 14.0}))
    suite = sample.folder / "suite.yaml"
    assert f"Too wide an interval to tell: cnnbench run {suite} --only alexnet/inference/ort/cpu/fp32/b1" in lines
    again = f"--out {sample.folder} --resume"
    assert f"Not measured: cnnbench run {suite} --only {not_reached} {again}" in lines
    other_batch = picked_lines(pick([sample], {}, batch=4))
    assert any("`batches: {inference: [4]}` measures it" in line for line in other_batch)
    unknown = picked_lines(pick([sample], {"accuracy": 50.0}, batch=8))
    assert any("lenet5: cnnbench evaluate lenet5 --weights FILE" in line for line in unknown)


def test_invalid_and_failed_cases_are_named_and_not_picked(sample: Run) -> None:
    id_ = "mobilenet_v2/inference/ort/cpu/fp32/b1"
    bad = sample.records[id_].model_copy(update={"status": "invalid"})
    picked = pick([dataclasses.replace(sample, records=sample.records | {id_: bad})], {"p50": 15.0})
    assert "mobilenet_v2 ort" not in names(picked)[0]
    assert f"Not judged, since failed or invalid: 1, such as {id_}." in picked_lines(picked)


def test_memory_is_the_largest_of_all_launches(tmp_path: Path) -> None:
    def launched(of: Case, *peaks_mb: int) -> Record:
        made = record(of, [0.01] * 8)
        (launch,) = made.launches
        launches = [
            launch.model_copy(update={"memory": launch.memory.model_copy(update={"peak_bytes": peak * 10**6})})
            for peak in peaks_mb
        ]
        return made.model_copy(update={"measurement": Measurement(launches=launches)})

    made = launched(case("ort", batch=1), 90, 110)
    run = Run(tmp_path, "t", "?", ENVIRONMENT, {made.id: made})
    assert [names(pick([run], {"memory": bound})) for bound in (110.0, 100.0, 80.0)] == [
        [["lenet5 ort"], [], [], []],
        [[], ["lenet5 ort"], [], []],
        [[], [], [], ["lenet5 ort"]],
    ]


def test_the_command_prints_tables_lines_and_json_and_refuses_what_is_no_bound(cli: Cli, home: Path) -> None:
    folder = home / "run"
    folder.mkdir()
    sample = sample_run(folder)
    write_records(folder, sample.records.values())
    (folder / "run.json").write_text(json.dumps({"suite": "sample", "cases": list(sample.records)}))
    done = cli("pick", "run", "--p50", "15ms", "--memory", "200MB", "--size", "1GB")
    assert done.returncode == 0, done.stderr
    assert "Meet all bounds" in done.stdout
    assert "Best: mobilenet_v2 in ONNX Runtime" in done.stdout
    found = json.loads(cli("pick", "run", "--p50", "15ms", "--json").stdout)
    assert [row["model"] for row in found["meet"]] == ["mobilenet_v2", "mobilenet_v2", "alexnet"]
    assert found["meet"][0]["p50_ms_high"] == pytest.approx(5.1)
    assert cli("pick", "run", "--batch", "3").returncode == 3
    other = cli("pick", "run", "--data", "shapes")
    assert other.returncode == 2
    assert "--data: expected a data set, one of published; got 'shapes'" in other.stderr
    bad = cli("pick", "run", "--memory", "many")
    assert (bad.returncode, bad.stderr.startswith("error: --memory: expected an amount")) == (2, True)

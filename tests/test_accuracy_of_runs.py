"""The accuracy of what a run has timed: counts, verdicts, the table, and a run with real workers."""

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnbench.analysis import counts
from cnnbench.analysis.cases import case_rows
from cnnbench.analysis.evaluation import accuracy, mcnemar, paired_difference, verdict, versus_float32
from cnnbench.analysis.pareto import (
    data_sets,
    measured_points,
    measured_top1,
    of_smallest_batch,
    points_of,
    published_top1,
)
from cnnbench.analysis.stats import Estimate
from cnnbench.records.artifact import graph_file
from cnnbench.records.evaluation import Evaluation
from cnnbench.records.lines import parse_record, record_line, shared_values
from cnnbench.records.record import Record
from cnnbench.records.run_folder import read_run
from cnnbench.report.accuracy import accuracy_table
from cnnbench.report.format import NONE
from cnnbench.report.tables import run_tables
from cnnbench.suite.case import Case, ModelSpec, Precision
from cnnbench.suite.load import load_suite
from tests.conftest import Cli, write_suite
from tests.records import case, record
from tests.sample_run import sample_run


def found(correct: int, only_this: int, only_reference: int, images: int = 2000) -> Evaluation:
    """Compared with ONNX Runtime in float32."""
    same = images - only_this - only_reference
    return Evaluation(
        data="shapes",
        images=images,
        correct=correct,
        reference="ort/cpu",
        only_this=only_this,
        only_reference=only_reference,
        same_class=same,
    )


def test_the_interval_of_a_paired_difference_is_newcombes() -> None:
    """Newcombe 1998, method 10, of 36, 12, 2 and 0 pairs; of no discordant pair the interval holds zero."""
    difference = paired_difference(36, 12, 2, 0)
    assert difference.value == pytest.approx(0.2)
    assert (difference.low, difference.high) == pytest.approx((0.0569, 0.3404), abs=5e-5)
    same = paired_difference(90, 0, 0, 10)
    assert same.low is not None
    assert same.high is not None
    assert same.low < 0 < same.high


@pytest.mark.parametrize(
    ("both", "only_first", "only_second", "neither"),
    [(36, 12, 2, 0), (900, 20, 35, 45), (20, 15, 10, 5), (11, 10, 8, 8), (80, 0, 20, 0), (70, 20, 0, 10)],
)
def test_a_paired_differences_interval_takes_the_correlation_into_account(
    both: int, only_first: int, only_second: int, neither: int
) -> None:
    """By Newcombe's formula, with the correlation of the very answers; corrected for continuity where it is positive,
    and none where one of the two is always right."""
    answers = [(1, 1)] * both + [(1, 0)] * only_first + [(0, 1)] * only_second + [(0, 0)] * neither
    images = len(answers)
    shares = [accuracy(sum(each), images) for each in zip(*answers, strict=True)]
    is_known = all(len(set(each)) == 2 for each in zip(*answers, strict=True))
    correlation = float(np.corrcoef(np.array(answers).T)[0, 1]) if is_known else 0.0
    cross = both * neither - only_first * only_second
    if cross > 0:
        correlation *= max(cross - images / 2, 0) / cross
    (first, low, high), (second, other_low, other_high) = (
        (each.value, each.low or 0.0, each.high or 0.0) for each in shares
    )

    def reach(one: float, other: float) -> float:
        return math.sqrt(one**2 + other**2 - 2 * correlation * one * other)

    difference = paired_difference(both, only_first, only_second, neither)
    expected = (
        first - second - reach(first - low, other_high - second),
        first - second + reach(high - first, second - other_low),
    )
    assert difference.value == pytest.approx((only_first - only_second) / images)
    assert (difference.low, difference.high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("evaluation", "said"),
    [
        (found(1800, 10, 10), "meets"),
        (found(1700, 0, 100), "fails"),
        (found(1800, 10, 26), "undecided"),
        (found(1800, 0, 0).model_copy(update={"reference": ""}), None),
    ],
)
def test_a_verdict_needs_the_whole_interval_on_one_side_of_99_percent(evaluation: Evaluation, said: str | None) -> None:
    assert verdict(evaluation) == said


def test_counts_that_cannot_be_are_refused() -> None:
    assert found(1700, 5, 100).reference_correct == 1795
    with pytest.raises(ValueError, match="at most all images"):
        found(10, 11, 0)
    with pytest.raises(ValueError, match="among those that are wrong"):
        found(1950, 0, 51)


def of(precision: Precision, evaluation: Evaluation | None) -> Record:
    """LeNet-5 in ONNX Runtime."""
    asked = case("ort").model_copy(update={"precision": precision})
    return record(asked, [0.01] * 8).model_copy(update={"evaluation": evaluation})


def test_the_table_compares_with_float32_on_the_same_images_and_leaves_out_what_was_not_evaluated() -> None:
    own = found(1800, 0, 0)
    records = [of("fp32", own), of("int8", found(1700, 0, 100)), of("int8-7bit", None)]
    records.append(of("int8-signed", Evaluation(data="nowhere", problem="there is no such folder")))
    rows = case_rows(records)
    table = accuracy_table(rows, {each.id: each for each in records})
    first, second = (dict(zip(table.headings, row, strict=True)) for row in table.texts)
    assert (first["top-1 %"], first["99 %"], first["p"]) == ("90.0 [88.6, 91.2]", "", NONE)
    assert (second["top-1 %"], second["99 %"], second["same class"]) == ("85.0 [83.4, 86.5]", "fails", "95 %")
    assert second["difference"].startswith("-5.0 [-6.")
    assert mcnemar(0, 100) < 1e-20
    change = versus_float32(found(1700, 0, 100))
    assert change is not None
    assert change.value == pytest.approx(-0.05)
    points = measured_points(records, [row for row in rows if row.is_comparable])
    assert [(point.top1, point.data) for point in points] == [(90.0, "shapes"), (85.0, "shapes")]


def evaluated(model: str, *data: str, batch: int = 8, images: int = 2000) -> list[Record]:
    """Cases of a model that were evaluated on each."""
    return [
        record(case("ort", model=model, batch=batch), [0.01] * 8).model_copy(
            update={"evaluation": Evaluation(data=each, images=images, correct=images // 2)}
        )
        for each in data
    ]


def test_the_data_set_with_the_most_networks_stands_first() -> None:
    made = [
        *evaluated("lenet5", "a", "a", "b"),  # twice on one, which counts once
        *evaluated("simple_cnn", "b", "c"),
        *evaluated("alexnet", "c"),
        *evaluated("vgg11", "d", "c", images=0),
        *evaluated("vgg11", "c"),
        record(case("ort"), [0.01] * 8),
    ]
    assert data_sets(made) == ["c", "b", "a"]
    assert data_sets(evaluated("lenet5", "z", "a")) == ["a", "z"]
    (one,) = evaluated("lenet5", "a")
    top1 = measured_top1(one, "a")
    assert top1 is not None
    assert (top1.value, measured_top1(one, "b")) == (50.0, None)
    assert top1.low is not None
    assert 47 < top1.low < 50
    assert measured_top1(evaluated("lenet5", "a", images=0)[0], "a") is None


@cache
def sampled() -> list[Record]:
    return list(sample_run(Path()).records.values())


def published(**changes: object) -> Record:
    """ResNet-18's, with its published accuracy."""
    found = next(each for each in sampled() if each.case.label == "resnet18")
    assert found.artifact is not None
    return found.model_copy(update={"artifact": found.artifact.model_copy(update=changes)})


def test_a_published_accuracy_is_of_the_size_and_the_classes_that_ran() -> None:
    assert published_top1(published()) == Estimate(69.8, 69.8, 69.8)
    assert published_top1(published(input_shape=(3, 224, 192))) is None
    assert published_top1(published(classes=10)) is None
    artifact = published().artifact
    assert artifact is not None
    known = artifact.counters.published
    assert known is not None
    for lacking in (
        None,
        known.model_copy(update={"image_size": None}),
        known.model_copy(update={"top1_percent": None}),
    ):
        assert published_top1(published(counters=artifact.counters.model_copy(update={"published": lacking}))) is None
    assert published_top1(record(case("ort"), status="failed")) is None


@pytest.mark.parametrize(
    ("model", "changed", "is_given"),
    [
        ("resnet18", {}, True),
        ("resnet18", {"input_shape": (3, 96, 96)}, False),
        ("resnet18", {"classes": 10}, False),
        ("torchvision/resnet34", {}, True),
        ("torchvision/resnet34", {"classes": 10}, False),
    ],
)
def test_the_table_of_models_has_no_accuracy_of_another_size_or_other_classes(
    model: str, changed: dict[str, Any], is_given: bool, tmp_path: Path
) -> None:
    known = published(**changed)
    spec = known.case.spec.model_copy(update={"model": model, "classes": changed.get("classes")})
    found = known.model_copy(update={"case": known.case.model_copy(update={"spec": spec})})
    run = replace(sample_run(tmp_path), records={found.id: found})
    (models,) = [table for table in run_tables(run) if table.name == "models"]
    assert found.artifact is not None
    assert counts.summary(spec, found.artifact).top1_percent == (69.8 if is_given else None)
    assert models.data["top1_percent"].dropna().tolist() == ([69.8] if is_given else [])


def test_points_are_of_inference_in_float32_where_an_accuracy_is_published() -> None:
    half = published().model_copy(update={"case": published().case.model_copy(update={"precision": "bf16"})})
    everything = [*sampled(), half]
    rows = [row for row in case_rows(everything) if row.is_comparable]
    found = points_of(everything, rows)
    models = ("alexnet", "resnet18", "mobilenet_v2")
    expected = [(model, batch, runtime) for model in models for batch in (1, 8) for runtime in ("eager", "ort")]
    assert [(point.row.model, point.row.batch, point.row.runtime) for point in found] == expected
    assert {(point.row.workload, point.row.precision, point.data) for point in found} == {("inference", "fp32", "")}
    assert [point.row.batch for point in of_smallest_batch(found, "cpu")] == [1] * 6
    assert of_smallest_batch(found, "cuda") == []


def test_a_record_keeps_its_evaluation() -> None:
    written = of("int8", found(1700, 0, 100))
    read = parse_record(json.loads(record_line(written)), shared_values(written), {})
    assert read.evaluation == written.evaluation


def test_a_suite_names_data_which_calibrate_too(tmp_path: Path) -> None:
    suite = load_suite(
        write_suite(
            tmp_path,
            "defaults: {runtimes: [ort], precisions: {inference: [fp32, int8]}, batches: [1], data: shapes}\n"
            "models: [simple_cnn, {model: lenet5, data: digits, calibration: noise, test_images: 50}]\n",
        )
    )
    inference = [each for each in suite.cases if each.workload == "inference"]
    assert set(suite.tests) == {each.id for each in inference}
    assert [each.calibration for each in inference] == ["noise", "shapes", "noise", "noise"]
    assert [(suite.tests[each.id].data, suite.tests[each.id].images) for each in inference[1:3]] == [
        ("shapes", 2000),
        ("digits", 50),
    ]


def test_resized_data_are_another_case_with_another_graph(tmp_path: Path) -> None:
    models = "models: [{model: lenet5, data: shapes}, {model: lenet5, data: shapes@resized}]\n"
    defaults = "defaults: {workloads: [inference], runtimes: [ort], precisions: [int8], batches: [1]}\n"
    plain, resized = load_suite(write_suite(tmp_path, defaults + models)).cases
    assert resized.id == "lenet5/inference/ort/cpu/int8/cal:shapes@resized/b1"
    assert Case.from_id(resized.id) == resized
    assert graph_file(plain) != graph_file(resized)


@pytest.mark.slow
def test_a_run_evaluates_what_it_timed_and_goes_on_where_that_cannot_be(home: Path, cli: Cli) -> None:
    import torch
    from safetensors.torch import save_file

    from cnnbench.worker import models
    from tests.test_data import images_of, write_images

    write_images(home / "data" / "train", "cat", "dog", "emu", count=30)
    write_images(home / "data" / "test", "cat", "dog", "emu", count=21)
    module, shape = models.build(ModelSpec(model="lenet5", seed=3))
    assert isinstance(shape, tuple)
    save_file(module.state_dict(), home / "w.safetensors")
    data = images_of(home / "data", shape)
    with torch.inference_mode():
        expected = module.eval()(torch.from_numpy(data.prepare(data.test.images))).argmax(1).numpy()
    suite = write_suite(
        home,
        "name: accuracy\nlaunches: 1\nbudget: 5m\n"
        "defaults: {workloads: [inference], runtimes: [eager, ort], batches: [2], case_budget: 0.3s, data: data}\n"
        "models:\n"
        "  - {model: lenet5, weights: w.safetensors, precisions: [fp32, int8]}\n"
        "  - {model: lenet5, weights: w.safetensors, classes: 10, data: nowhere}\n"
        "  - {model: lenet5, weights: w.safetensors, classes: 2}\n"
        "  - simple_cnn\n",
    )
    done = cli("run", suite, "--out", "out", "--tables")
    assert done.returncode == 3, done.stderr
    records = {each.id: each for each in read_run(home / "out").records.values()}
    right = int((expected == data.test.labels).sum())
    for runtime in ("eager", "ort"):
        evaluation = records[f"lenet5/w:w.safetensors/inference/{runtime}/cpu/fp32/b2"].evaluation
        assert evaluation is not None
        assert (evaluation.images, evaluation.correct, evaluation.reference) == (63, right, "eager/cpu")
        assert evaluation.same_class == 63
        assert records[f"simple_cnn/inference/{runtime}/cpu/fp32/b2"].evaluation is None, "random weights"
    quantised = records["lenet5/w:w.safetensors/inference/ort/cpu/int8/cal:data/b2"].evaluation
    assert quantised is not None
    assert (quantised.reference, quantised.images) == ("ort/cpu", 63)
    broken = records["lenet5/k10/w:w.safetensors/inference/ort/cpu/fp32/b2"]
    assert broken.status in ("ok", "noisy")
    assert broken.reasons[-1].code == "no-accuracy"
    assert "nowhere: expected a data set; there is no such folder" in broken.reasons[-1].detail
    assert records["lenet5/k2/w:w.safetensors/inference/ort/cpu/fp32/b2"].evaluation is None, "a head begun anew"
    assert "Accuracy of what was timed" in done.stdout
    assert "measured on data" in (home / "out" / "report.html").read_text()

"""Suites expand to explicit cases; every mistake in one is told with its place, what was expected, and what to do."""

from pathlib import Path

import pytest

from cnnbench.errors import SuiteError
from cnnbench.suite.load import bundled_suites, load_suite
from cnnbench.suite.schema import json_schema
from tests.conftest import ROOT, write_suite


def ids(path: str) -> list[str]:
    return [case.id for case in load_suite(path).cases]


def test_a_bare_name_expands_with_the_built_in_defaults(tmp_path: Path) -> None:
    assert ids(write_suite(tmp_path, "models: [lenet5]")) == [
        "lenet5/inference/eager/cpu/fp32/b1",
        "lenet5/inference/ort/cpu/fp32/b1",
        "lenet5/inference/eager/cpu/fp32/b8",
        "lenet5/inference/ort/cpu/fp32/b8",
        "lenet5/training/eager/cpu/fp32/b8",
    ]


def test_a_models_entry_overrides_the_defaults_per_workload(tmp_path: Path) -> None:
    suite = write_suite(
        tmp_path,
        """
defaults: {runtimes: [eager], batches: {inference: [1], training: [4]}, threads: 1, classes: 7}
models:
  - model: resnet18
    image_size: 64x96
    batches: {training: [2, 16]}
  - model: torchvision/resnet18
    classes: 1000
    workloads: [inference]
  - {model: "mine.nets:build", workloads: [inference], seed: 3}
""",
    )
    assert ids(suite) == [
        "resnet18@64x96/k7/inference/eager/cpu/fp32/b1/t1",
        "resnet18@64x96/k7/training/eager/cpu/fp32/b2/t1",
        "resnet18@64x96/k7/training/eager/cpu/fp32/b16/t1",
        "torchvision/resnet18/inference/eager/cpu/fp32/b1/t1",
        "mine.nets:build/k7/inference/eager/cpu/fp32/b1/t1/s3",
    ]


def test_the_classic_suite_covers_what_it_promises() -> None:
    cases = load_suite(str(ROOT / "suites" / "classic.yaml")).cases
    models = {case.spec.model for case in cases}
    assert models >= {
        *("lenet5", "simple_cnn", "vgg_style", "resnet_cifar", "alexnet"),
        *("resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0"),
    }
    for model in models:
        of_model = [case for case in cases if case.spec.model == model]
        assert {case.device for case in of_model} == {"cpu", "cuda"}
        inference = {(case.runtime, case.batch) for case in of_model if case.workload == "inference"}
        assert {runtime for runtime, _ in inference} == {"eager", "ort"}
        batches = {batch for _, batch in inference}
        assert 1 in batches
        assert max(batches) > 1
        assert any(case.workload == "training" for case in of_model)
        kept = {case.workload for case in of_model if (case.runtime, case.allocator) == ("eager", "keep")}
        assert kept == {"inference", "training"}


def test_suites_that_come_along_are_found_by_name() -> None:
    assert set(bundled_suites()) >= {"classic", "smoke"}
    assert load_suite("smoke").digest == load_suite(str(ROOT / "suites" / "smoke.yaml")).digest


def test_comments_do_not_change_the_digest_and_cases_do(tmp_path: Path) -> None:
    plain = load_suite(write_suite(tmp_path, "models: [lenet5]")).digest
    assert load_suite(write_suite(tmp_path, "# why\nmodels: [lenet5]")).digest == plain
    assert load_suite(write_suite(tmp_path, "models: [simple_cnn]")).digest != plain


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: [a: b", r":1: cannot be read as YAML: expected"),
        ("- lenet5", r"expected a mapping with `models`; got \['lenet5'\]"),
        ("", r"expected a mapping with `models`; got nothing"),
        ("name: x", r":1: models: expected a key 'models'; got none"),
        ("models: []", r":1: models: expected at least one item; got none"),
        ("models: lenet5", r"models: expected a list; got 'lenet5'; write \[lenet5\]"),
        ("models: [lenet5]\nmodels: [alexnet]", r":2: models: stands twice, first on line 1; keep one"),
        ("models: [lenet5]\nrunimes: [ort]", r":2: runimes: expected a key, one of .*; got 'runimes'"),
        ("models: [lenet5]\ndefaults: {batch: [1]}", r"defaults.batch: .*did you mean 'batches'"),
        (
            "models:\n  - model: lenet5\n    batches: [0]",
            r":3: models\[0\].batches\[0\]: .* at least 1; got 0",
        ),
        ("models:\n  - model: lenet5\n    batches: [-8]", r"at least 1; got -8"),
        ("models:\n  - model: lenet5\n    batches: ['8']", r"expected a whole number; got '8'"),
        ("models:\n  - model: lenet5\n    batches: 8", r"expected a list; got 8; write \[8\]"),
        (
            "models:\n  - model: lenet5\n    batches: {inferense: [8]}",
            r"got 'inferense' \(did you mean 'inference'\?\)",
        ),
        (
            "models: [resnet81]",
            r":1: models\[0\].model: expected a model, .* got 'resnet81' \(did you mean 'resnet18'\?\)",
        ),
        (
            "models: [lenet5]\ndefaults:\n  runtimes: [onnxrt]",
            r":3: .*one of aot, compile, eager, folded, http, openvino, ort; got 'onnxrt' \(did you mean 'ort'\?\)",
        ),
        (
            "models: [lenet5]\ndefaults:\n  devices: [cdua]",
            r"expected a device, one of cpu, cuda; got 'cdua' \(did you mean 'cuda'",
        ),
        (
            "models: [lenet5]\ndefaults: {precisions: [fp61]}",
            r"one of amp-bf16, amp-fp16, bf16, fp16, fp32, int8, int8-7bit, int8-pt2e, int8-signed; got",
        ),
        ("models: [lenet5]\nbudget: soon", r":2: budget: expected a duration such as"),
        ("models: [{model: lenet5, image_size: big}]", r"expected an image size such as 224"),
        (
            "models: [{model: lenet5, image_size: 9}]",
            r"image_size: image of 9x9 is too small for lenet5: layer 'conv2'.*16x16",
        ),
        (
            "models: [lenet5, lenet5]",
            r":1: models\[1\]: case lenet5/inference/eager/cpu/fp32/b1 stands twice",
        ),
        ("models: [3]", r"models\[0\]: expected a mapping of keys to values; got 3"),
        (
            "models: [lenet5]\ndefaults: {seed: -1}",
            r"defaults.seed: expected a whole number of at least 0; got -1",
        ),
    ],
)
def test_a_mistake_in_a_suite_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SuiteError, match=message) as caught:
        load_suite(write_suite(tmp_path, text))
    assert str(caught.value).startswith(str(tmp_path / "suite.yaml"))


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(SuiteError) as caught:
        load_suite(write_suite(tmp_path, "models: [nope]\nbudget: never\nextra: 1"))
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("name", ["clasic", "nowhere/clasic.yaml"])
def test_a_suite_that_does_not_exist_is_told_with_the_nearest_name(name: str) -> None:
    with pytest.raises(SuiteError, match=r"no such suite file; .*did you mean 'classic'"):
        load_suite(name)


def test_a_folder_and_a_binary_file_are_no_suites(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="expected a suite file; got a folder"):
        load_suite(str(tmp_path))
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SuiteError, match="expected a YAML text in UTF-8"):
        load_suite(str(tmp_path / "x.yaml"))


def test_timm_is_asked_for_where_it_is_not_installed(tmp_path: Path) -> None:
    import importlib.util

    if importlib.util.find_spec("timm"):
        pytest.skip("timm is installed here")
    with pytest.raises(SuiteError, match="needs timm, which is not installed here: pip install timm"):
        load_suite(write_suite(tmp_path, "models: [timm/resnet18]"))


def test_the_schema_knows_every_key_and_closes_the_door_on_others() -> None:
    schema = json_schema()
    assert schema["additionalProperties"] is False
    named = {"name", "description", "budget", "launches", "limit", "input", "defaults", "models"}
    assert set(schema["properties"]) == named
    bare, entry = schema["properties"]["models"]["items"]["anyOf"]
    assert bare == {"type": "string"}
    assert "image_size" in schema["$defs"][entry["$ref"].rpartition("/")[2]]["properties"]

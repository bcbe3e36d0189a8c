"""The exact gate: figures that no noise touches, against a file that is kept with the code."""

import re
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import yaml

from cnnbench.gate import exact
from cnnbench.gate.exact import (
    Difference,
    Expectation,
    GraphFigures,
    ModelFigures,
    check_exact,
    compare,
    expectation_file,
    find_figures,
    parity_class,
    read_expectation,
    write_expectation,
)
from cnnbench.networks.registry import get
from cnnbench.networks.training import step_memory
from cnnbench.records.messages import Describe
from cnnbench.records.record import Parity
from cnnbench.suite.case import ModelSpec
from cnnbench.suite.load import bundled_suites, load_suite
from cnnbench.worker.graph_file import describe
from tests.conftest import ROOT, Cli, write_suite
from tests.records import case

SUITE = """
name: mine
defaults: {batches: {inference: [1], training: [4, 8]}, runtimes: [eager, ort]}
models: [lenet5, simple_cnn]
"""

FIGURES = ModelFigures(
    params=10,
    macs=200,
    inference=GraphFigures(operators={"Conv": 2, "Relu": 1}, content_bytes=1000, parity="float32"),
    step_peak_bytes={8: 4096},
)


OF_TRAINING = ("training", "step_peak_bytes")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a suite and its expectation, written once by the command line."""
    return tmp_path_factory.mktemp("expected")


@pytest.fixture
def suite(written: Path, cli: Cli) -> Path:
    """The suite's file; its expectation stands beside it."""
    file = Path(write_suite(written, SUITE))
    if not expectation_file(load_suite(str(file))).exists():
        done = cli("gate", str(file), "--exact", "--update")
        assert done.returncode == 0, done.stderr
        assert "lenet5: verifying" in done.stderr  # it takes a while, so it tells
    return file


def test_what_has_not_changed_passes(suite: Path, cli: Cli) -> None:
    done = cli("gate", str(suite), "--exact")
    assert (done.returncode, done.stdout) == (
        0,
        f"2 models match {suite.with_suffix('.expect.yaml')} exactly\n",
    )


def test_the_file_holds_every_exact_figure_sorted(suite: Path) -> None:
    text = suite.with_suffix(".expect.yaml").read_text()
    content = yaml.safe_load(text)
    lenet = content["models"]["lenet5"]
    assert (lenet["params"], lenet["macs"], lenet["disagreements"]) == (44_426, 281_640, [])
    assert lenet["inference"]["operators"]["Conv"] == 2
    assert lenet["inference"]["operators"]["Gemm"] == 3
    assert lenet["inference"]["parity"] == "float32"
    assert lenet["training"]["operators"]["Conv"] > 2  # of the step, backwards too
    assert set(lenet["step_peak_bytes"]) == {4, 8}
    assert set(content["versions"]) == {"onnx", "onnxscript", "torch", "torchvision"}
    assert yaml.safe_dump(content, sort_keys=True, width=120) == re.sub(r"(?m)^#.*\n", "", text)


def test_a_change_is_told_with_the_lines_that_the_file_would_need(suite: Path, cli: Cli, tmp_path: Path) -> None:
    other = tmp_path / "other.expect.yaml"
    content = yaml.safe_load(suite.with_suffix(".expect.yaml").read_text())
    content["models"]["lenet5"]["params"] -= 426
    content["models"]["lenet5"]["inference"]["operators"] |= {"Conv": 1, "Sigmoid": 4}
    content["versions"]["torch"] = "1.0"
    other.write_text(yaml.safe_dump(content))
    done = cli("gate", str(suite), "--exact", "--expect", str(other))
    assert done.returncode == 3
    assert "lenet5: params: expected 44,000, found 44,426 (+0.97%)" in done.stdout
    assert "lenet5: inference.operators.Conv: expected 1, found 2 (+100.00%)" in done.stdout
    assert "lenet5: inference.operators.Sigmoid: expected 4, found none" in done.stdout
    assert "torch 1.0 then, " in done.stdout
    assert "another exporter version may write other operators" in done.stdout
    assert "3 figures of 1 of 2 models differ" in done.stdout
    assert "--exact --update" in done.stdout
    lines = done.stdout.partition("lines that the file needs to match:\n")[2].partition("to accept the new")[0]
    (model,) = yaml.safe_load(lines)["models"].items()
    assert model == ("lenet5", yaml.safe_load(suite.with_suffix(".expect.yaml").read_text())["models"]["lenet5"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no such file"),
        ("models: {}", "versions: Field required"),
        ("models: {", "cannot be read as YAML"),
        ("", "the content"),
    ],
)
def test_a_file_that_is_missing_or_unreadable_is_no_pass(home: Path, cli: Cli, text: str | None, message: str) -> None:
    suite = write_suite(home, SUITE)
    if text is not None:
        (home / "suite.expect.yaml").write_text(text)
    done = cli("gate", suite, "--exact")
    assert done.returncode == 3
    assert message in done.stderr
    assert "--exact --update` writes it" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_figure_that_changes_is_a_difference() -> None:
    assert list(compare({"a": FIGURES}, {"a": FIGURES})) == []
    graph = FIGURES.inference
    assert graph is not None
    changes = {
        "params": FIGURES.model_copy(update={"params": 11}),
        "macs": FIGURES.model_copy(update={"macs": 199}),
        "disagreements": FIGURES.model_copy(update={"disagreements": ["conv1: 2 by formula, 3 by onnx"]}),
        "step_peak_bytes.8": FIGURES.model_copy(update={"step_peak_bytes": {8: 4097}}),
        "inference.operators.Relu": FIGURES.model_copy(
            update={"inference": graph.model_copy(update={"operators": {"Conv": 2}})}
        ),
        "inference.content_bytes": FIGURES.model_copy(
            update={"inference": graph.model_copy(update={"content_bytes": 1001})}
        ),
        "inference.parity": FIGURES.model_copy(update={"inference": graph.model_copy(update={"parity": "coarse"})}),
    }
    for figure, changed in changes.items():
        assert [difference.figure for difference in compare({"a": FIGURES}, {"a": changed})] == [figure]


def test_a_model_that_one_side_lacks_is_a_difference() -> None:
    gone, new = compare({"a": FIGURES}, {"b": FIGURES})
    assert str(gone) == "a: expected its figures, found none"
    assert str(new) == "b: expected none, found its figures"
    assert str(Difference("a", "macs", 0, 100)) == "a: macs: expected 0, found 100"
    assert str(Difference("a", "macs", 200, 100)) == "a: macs: expected 200, found 100 (-50.00%)"
    assert str(Difference("a", "macs", 0, 1000)) == "a: macs: expected 0, found 1,000"
    assert str(Difference("a", "macs", None, 1000)) == "a: macs: expected none, found 1,000"
    assert str(Difference("a", "macs", 1000, None)) == "a: macs: expected 1,000, found none"
    assert str(Difference("a", "disagreements", [], ["x"])) == "a: disagreements: expected none, found ['x']"
    assert str(Difference("a", "inference.parity", "float32", "wrong")).endswith("expected float32, found wrong")


def test_expected_and_found_are_not_mixed_up_and_only_the_models_that_differ_are_replaced(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, told = load_suite(write_suite(home, SUITE)), list[str]()
    then = Expectation(
        versions={"torch": "1.0", "onnx": "1.1", "onnxscript": "0.1"}, models={"a": FIGURES, "b": FIGURES}
    )
    other = FIGURES.model_copy(update={"params": 11})
    now = Expectation(versions={"torch": "2.0", "onnx": "1.1", "torchvision": "0.2"}, models={"a": FIGURES, "b": other})

    def find(asked: object, on_model: Callable[[str], None]) -> Expectation:
        assert asked is suite
        on_model("a")
        return now

    monkeypatch.setattr(exact, "find_figures", find)
    file = home / "x.yaml"
    write_expectation(file, "mine", then)
    assert read_expectation(file, "mine") == then
    report = check_exact(suite, file, told.append)
    assert (report.found, report.suite, told) == (now, "mine", ["a"])
    assert [str(each) for each in report.differences] == ["b: params: expected 10, found 11 (+10.00%)"]
    assert report.versions == [
        "torch 1.0 then, 2.0 now",
        "torchvision none then, 0.2 now",
        "onnxscript 0.1 then, none now",
    ]
    assert yaml.safe_load(report.replacement) == {"models": {"b": other.model_dump()}}
    write_expectation(file, "mine", now)
    same = check_exact(suite, file)
    assert (same.differences, same.versions, same.replacement) == ([], [], "")


def test_figures_are_by_label_and_seed_and_of_the_batches_that_are_trained() -> None:
    spec = ModelSpec(model="lenet5", image_size=(28, 28), classes=10)
    assert [exact._name(each) for each in (spec, spec.model_copy(update={"seed": 3}))] == ["lenet5", "lenet5/s3"]
    trained = [
        case(workload=workload, batch=batch) for workload, batch in (("training", 8), ("inference", 2), ("training", 4))
    ]
    peaks = exact._step_peaks(spec, trained)
    network = get("lenet5").network()
    assert peaks == {batch: step_memory(network, batch, "momentum").peak for batch in (4, 8)}
    assert exact._step_peaks(spec, trained[1:2]) == {}
    small = ModelSpec(model="inception_v3", image_size=(96, 96))
    assert exact._step_peaks(small, trained) == {}, "large enough for inference alone"


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([1e-7, 9.9e-6], "float32"),
        ([1e-7, 1.1e-5], "coarse"),  # beyond the limit
        ([1e-5], "float32"),
        ([1e-2], "coarse"),  # a thousand times it
        ([1.1e-2], "wrong"),
        ([1e-7, None], "wrong"),
    ],
)
def test_the_class_is_that_of_the_worst_parity(errors: list[float | None], expected: str) -> None:
    assert parity_class([Parity(what="ort", error=error, limit=1e-5) for error in errors]) == expected


def test_an_output_that_ignores_its_input_is_wrong_however_wide_the_limit() -> None:
    assert parity_class([Parity(what="ort", error=0.51, limit=1e-2)]) == "wrong"
    assert parity_class([Parity(what="ort", error=0.5, limit=1e-2)]) == "coarse"


def test_a_graphs_size_does_not_tell_where_it_was_exported(tmp_path: Path) -> None:
    """torch's exporter writes the paths of source files into each node, and its own version into the file."""
    found = []
    for place, version in (("/a", "2.14"), ("/a/much/longer/path", "2.14+cu130")):
        node = onnx.helper.make_node("Relu", ["x"], ["y"], doc_string=place)
        node.metadata_props.add(key="stack_trace", value=f"{place}/model.py")
        x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
        model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [x], [y]))
        model.producer_version = version
        onnx.save(model, tmp_path / "graph.onnx")
        found.append(describe(Describe(file=str(tmp_path / "graph.onnx"))))
    assert found[0] == found[1]
    assert found[0].operators == {"Relu": 1}
    assert found[0].content_bytes < model.ByteSize()


@pytest.mark.slow
def test_smoke_is_exactly_as_its_file_in_the_repository_says() -> None:
    """cnnbench gated by itself; of the training steps, which take longer to prove, the smallest."""
    suite = load_suite(str(ROOT / "suites" / "smoke.yaml"))
    cases = tuple(case for case in suite.cases if case.workload == "inference" or case.spec.model == "lenet5")
    expected = read_expectation(expectation_file(suite), suite.name)
    found = find_figures(suite.model_copy(update={"cases": cases}))
    left_out = tuple(f"{model}: {figure}" for model in found.models if model != "lenet5" for figure in OF_TRAINING)
    differences = [str(each) for each in compare(expected.models, found.models)]
    differences = [each for each in differences if not each.startswith(left_out)]
    if found.versions != expected.versions:  # another exporter may write other graphs
        differences = [each for each in differences if not re.search(r"operators|content_bytes", each)]
    assert differences == []
    assert found.models["lenet5"].training is not None


@pytest.mark.parametrize("name", ["smoke", "classic"])
def test_the_repositorys_files_are_of_the_models_that_the_suites_have(name: str) -> None:
    suite = load_suite(name)
    expected = read_expectation(expectation_file(suite), name)
    assert isinstance(expected, Expectation)
    assert set(expected.models) == {case.spec.label for case in suite.cases}


def test_an_expectation_is_no_suite() -> None:
    assert not any("expect" in name for name in bundled_suites())

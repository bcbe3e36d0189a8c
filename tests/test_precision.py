"""Graphs that are made for a precision: what they compute, what really ran, and what is said where there is none."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cnnbench.analysis.cases import case_rows
from cnnbench.analysis.explain import explain
from cnnbench.analysis.status import status_of
from cnnbench.errors import InputError
from cnnbench.records import artifact, dataset
from cnnbench.records.environment import Threads
from cnnbench.records.lines import parse_record, record_line, shared_values
from cnnbench.records.messages import BuildGraph
from cnnbench.records.reason import Reason
from cnnbench.records.record import GraphFacts, Measurement, Ran, Record
from cnnbench.records.run_folder import Run, read_run
from cnnbench.records.task_messages import Probed
from cnnbench.report.precision import int8_paragraph, precision_table
from cnnbench.runner import machine, plan
from cnnbench.runner.artifacts import Built
from cnnbench.runner.tasks import probe
from cnnbench.runner.worker_process import Worker
from cnnbench.suite.case import Case, ModelSpec, Precision
from cnnbench.suite.load import load_suite
from cnnbench.suite.runtimes import cannot
from cnnbench.worker.runtimes.shares import Executed, formats_in, named_after, shares
from tests.conftest import Cli, write_suite
from tests.peaks import peaks
from tests.records import ENVIRONMENT, case, measurement, record
from tests.test_engines import CONVOLUTIONS, OPENVINO
from tests.test_onnx_file import built
from tests.test_runtimes import SMALL, case_of, launch


def made(spec_case: Case, folder: Path, logs: Path) -> GraphFacts:
    with Worker(logs / "graph.log", 2, 300) as worker:
        return worker.ask(BuildGraph(case=spec_case, folder=str(folder)), GraphFacts)


@pytest.fixture(scope="module")
def int8(artifact_of: Callable[[ModelSpec], Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GraphFacts]:
    """The small ResNet's artifact, with its graph in int8."""
    folder = artifact_of(SMALL)
    return folder, made(case_of(runtime="ort", precision="int8"), folder, tmp_path_factory.mktemp("logs"))


def test_int8_is_made_once_for_all_engines_and_is_part_of_the_artifact(int8: tuple[Path, GraphFacts]) -> None:
    folder, facts = int8
    assert facts.error is None
    file = folder / artifact.graph_file(case_of(runtime="openvino", precision="int8"))
    assert file.name == "model.int8.onnx"
    assert facts.graph_bytes == file.stat().st_size < 0.4 * (folder / artifact.GRAPH).stat().st_size
    assert artifact.fault_of(folder) is None
    network = SMALL.closed_form
    assert network is not None
    assert sum(facts.macs.values()) == network.macs
    assert facts.own_error is not None
    assert facts.own_error < 0.4
    assert (facts.calibration_images, len(facts.calibration_digest)) == (200, 16)
    again = Built(folder, artifact.read_facts(folder)).made_for(case_of(runtime="openvino", precision="int8"))
    assert again == facts


@pytest.mark.parametrize("runtime", ["ort", pytest.param("openvino", marks=OPENVINO)])
def test_an_engine_runs_the_int8_graph_in_int8(int8: tuple[Path, GraphFacts], tmp_path: Path, runtime: str) -> None:
    opened, closed = launch(case_of(runtime=runtime, precision="int8"), int8[0], tmp_path)
    parity = [*opened.parity, *closed.parity]
    assert all(each.passed and (each.agreement or 0) >= 0.5 for each in parity), parity
    assert closed.faults == []
    assert closed.ran.shares == {"int8": pytest.approx(1)}
    assert closed.ran.facts["calibrated_on"] == "noise (seeded random images)"
    assert not closed.ran.torch_in_process


def test_a_wrong_int8_graph_fails_the_proof(int8: tuple[Path, GraphFacts], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    shutil.copytree(int8[0], wrong)
    asked = case_of(runtime="ort", precision="int8")
    model = onnx.load(wrong / artifact.graph_file(asked))
    weight = next(each for each in model.graph.initializer if each.name == "conv1.weight_quantized")
    filters = numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array(filters[::-1].copy(), weight.name))  # each filter in another's place
    onnx.save(model, wrong / artifact.graph_file(asked))
    opened, closed = launch(asked, wrong, tmp_path)
    assert not any(each.passed for each in closed.parity)
    assert not all(each.passed for each in opened.parity)


@pytest.mark.slow
def test_half_precision_runs_in_float32_where_cannot_says_so(int8: tuple[Path, GraphFacts], tmp_path: Path) -> None:
    said = cannot("ort", "inference", "cpu", "fp16", "nchw")
    asked = case_of(runtime="ort", precision="fp16")
    facts = made(asked, int8[0], tmp_path)
    assert facts.error is None
    assert facts.own_error is not None
    assert facts.own_error < 0.02
    graph = onnx.load(int8[0] / artifact.graph_file(asked)).graph
    types = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    assert types == {TensorProto.FLOAT}
    opened, closed = launch(asked, int8[0], tmp_path)
    assert all(each.passed for each in opened.parity)
    in_float32 = [f"asked fp16; 100% of MACs ran in fp32: {name}" for name in closed.ran.elsewhere[:1]]
    assert (said is None) == (closed.faults == [])
    assert said is None or [str(fault).partition(",")[0] for fault in closed.faults] == [f"precision: {in_float32[0]}"]


@pytest.mark.slow
@OPENVINO
@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8-7bit", "int8-signed"])
def test_openvino_runs_each_precision_that_the_processor_has(
    int8: tuple[Path, GraphFacts], tmp_path: Path, precision: str
) -> None:
    asked = case_of(runtime="openvino", precision=precision)
    reasons, _ = probe.find_unavailable([asked], tmp_path)
    if reasons:
        pytest.skip(str(reasons))
    assert made(asked, int8[0], tmp_path).error is None
    opened, closed = launch(asked, int8[0], tmp_path)
    assert all(each.passed for each in [*opened.parity, *closed.parity])
    assert closed.faults == []
    assert closed.ran.shares == {asked.format: pytest.approx(1)}
    assert closed.ran.operators["Convolution"] == CONVOLUTIONS


@pytest.mark.slow
def test_weights_of_seven_bits_are_a_graph_of_their_own(int8: tuple[Path, GraphFacts], tmp_path: Path) -> None:
    asked = case_of(runtime="ort", precision="int8-7bit")
    made(asked, int8[0], tmp_path)
    largest = {}
    for each in ("int8", "int8-7bit"):
        graph = onnx.load(int8[0] / artifact.graph_file(case_of(runtime="ort", precision=each))).graph
        weights = [t for t in graph.initializer if t.name.endswith("weight_quantized")]
        largest[each] = max(int(np.abs(numpy_helper.to_array(t).astype(int)).max()) for t in weights)
    assert largest == {"int8": 127, "int8-7bit": 64}
    _, closed = launch(asked, int8[0], tmp_path)
    assert closed.faults == []


@pytest.mark.slow
def test_calibration_data_decide_the_ranges_and_are_named(int8: tuple[Path, GraphFacts], tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(int8[0], folder)
    asked = case_of(runtime="ort", precision="int8", calibration="shapes")
    assert made(asked, folder, tmp_path) is not None
    with pytest.raises(InputError, match="expected a model for images of at least 1x512"):
        made(case_of(runtime="ort", precision="int8", calibration="signals"), folder, tmp_path)
    missing = case_of(runtime="ort", precision="int8", calibration=str(tmp_path / "none"))
    with pytest.raises(InputError, match="expected a data set; there is no such folder"):
        made(missing, folder, tmp_path)
    assert asked.id == f"{SMALL.label}/inference/ort/cpu/int8/cal:shapes/b2"
    assert artifact.graph_file(asked) not in ("model.int8.onnx", artifact.graph_file(missing))
    assert Case.from_id(missing.id) == missing


def test_calibration_data_that_change_are_read_again(int8: tuple[Path, GraphFacts], tmp_path: Path) -> None:
    images = tmp_path / "data" / "cat"
    images.mkdir(parents=True)
    (images / "a.png").write_bytes(b"1")
    before = dataset.fingerprint(str(tmp_path / "data"))
    assert before
    dataset.fingerprint.cache_clear()
    (images / "b.png").write_bytes(b"2")
    assert dataset.fingerprint(str(tmp_path / "data")) not in ("", before)
    assert dataset.fingerprint("shapes") == dataset.fingerprint("noise") == dataset.fingerprint("nowhere") == ""
    asked = case_of(runtime="ort", precision="int8", calibration=str(tmp_path / "data"))
    folder = tmp_path / "artifact"
    folder.mkdir()
    stale = int8[1].model_copy(update={"source": before})
    (folder / artifact.graph_facts_file(asked)).write_text(stale.model_dump_json())
    found = Built(folder, artifact.read_facts(int8[0]))
    assert found.made_for(asked) is None
    assert artifact.depends_on(asked) != artifact.depends_on(case_of(runtime="ort", precision="int8"))


def test_values_that_half_precision_cannot_hold_are_found(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], name="conv"),
        helper.make_node("Mul", ["y", "scale"], ["large"], name="mul"),
        helper.make_node("Div", ["large", "scale"], ["small"], name="div"),
        helper.make_node("Flatten", ["small"], ["out"], name="flatten"),
    ]
    images = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 4 * 36])
    random = np.random.default_rng(0)
    weights = {"w": random.standard_normal((4, 3, 3, 3)).astype(np.float32), "scale": np.float32(6e4)}
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", [images], [out], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    spec, _, folder = built(model, tmp_path)
    asked = case_of(spec, runtime="ort", device="cuda", precision="fp16")
    facts = made(asked, folder, tmp_path)
    assert facts.error is not None
    assert "half precision overflows above 65,504: large reaches " in facts.error
    assert not (folder / artifact.graph_file(asked)).exists()
    problem = Built(folder, artifact.read_facts(folder), made={artifact.graph_facts_file(asked): facts}).problem(asked)
    assert problem is not None
    assert (problem.status, problem.reason.code) == ("unavailable", "no-graph")


def test_too_few_macs_in_the_asked_precision_make_a_case_invalid() -> None:
    asked = case_of(runtime="ort", precision="int8")
    ran = Ran(
        device="cpu",
        device_name="cpu",
        threads=2,
        precision="unknown",
        shares={"int8": 0.4, "fp32": 0.59, "unknown": 0.01},
        elsewhere=["conv_1 (Conv)", "conv_2 (FusedConv)"],
    )
    (fault,) = ran.faults(asked)
    said = "asked int8; 59% of MACs ran in fp32 and 1% of MACs ran in unknown: conv_1 (Conv), conv_2 (FusedConv)"
    assert fault == Reason(code="precision", detail=said)
    launches = measurement([0.01] * 6).launches
    assert status_of(launches, faults=[fault])[0] == "invalid"
    more = ran.model_copy(update={"shares": {"int8": 0.51, "fp32": 0.49}})
    assert more.faults(asked) == []
    (unknown,) = ran.model_copy(update={"shares": {}}).faults(asked)
    assert unknown.detail == "requested int8, got unknown"


def test_shares_come_from_kernels_and_the_types_of_weights() -> None:
    nodes = [
        helper.make_node("QLinearConv", ["x", "s", "z", "w8", "s", "z", "s", "z"], ["a"], name="conv_1_token_7"),
        helper.make_node("Conv", ["a", "w16"], ["b"], name="conv_10"),
        helper.make_node("Cast", ["w16"], ["cast"], name="InsertedCast", to=TensorProto.FLOAT),
        helper.make_node("FusedConv", ["b", "cast"], ["c"], name="conv_1_0_nchwc"),
        helper.make_node("Add", ["c", "c"], ["d"], name="add"),
    ]
    weights = [
        numpy_helper.from_array(np.ones(1, np.float16), "w16"),
        numpy_helper.from_array(np.ones(1, np.int8), "w8"),
    ]
    executed = formats_in(helper.make_graph(nodes, "g", [], [], weights))
    assert [node.format for node in executed] == ["int8", "fp16", "fp32"]
    macs = {"conv_1": 50, "conv_10": 30, "conv_1_0": 15, "lost": 5}
    found = shares(executed, macs, "int8")
    assert found["shares"] == {"int8": 0.5, "fp16": 0.3, "fp32": 0.15, "unknown": 0.05}
    assert found["elsewhere"] == ["conv_10 (Conv)", "conv_1_0 (FusedConv)"]
    renamed = [*executed, Executed(["relu_nchwc"], "fp32", "Conv")]
    assert shares(renamed, macs, "int8")["shares"] == {"int8": 0.5, "fp16": 0.3, "fp32": 0.2}
    mixed = [*renamed, Executed(["other"], "int8", "QGemm")]
    assert shares(mixed, macs, "int8")["shares"] == {"int8": 0.5, "fp16": 0.3, "fp32": 0.15, "unknown": 0.05}
    several = [Executed([f"n{place}"], "fp32", "Conv") for place in range(5)]
    assert shares(several, {f"n{place}": 1 for place in range(5)}, "int8")["elsewhere"][-1] == "and 2 more"


def test_names_are_known_up_to_what_an_engine_puts_behind() -> None:
    known = dict.fromkeys(("conv", "conv_1", "linear"), 1)
    names = ("conv_1_token_3", "fused conv", "conv_12", "linear/WithoutBiases/Mul", "convolution", "")
    assert [named_after(name, known) for name in names] == ["conv_1", "conv", "conv", "linear", None, None]


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (("ort", "inference", "cpu", "bf16", "nchw"), "ort runs fp32, fp16, int8, int8-7bit, int8-signed alone"),
        (("ort", "inference", "cuda", "int8", "nchw"), "CUDA provider has no int8 convolution"),
        (("ort:tensorrt", "inference", "cuda", "int8", "nchw"), "zero points of 0 alone; it runs int8-signed"),
        (("ort:tensorrt", "inference", "cuda", "int8-signed", "nchw"), None),
        (("ort", "inference", "cuda", "fp16", "nchw"), None),
        (("ort", "inference", "cpu", "int8-7bit", "nchw"), None),
        (("ort", "training", "cpu", "int8", "nchw"), "int8 is for inference alone; training has fp32, amp-fp16, amp"),
        (("eager", "training", "cpu", "bf16", "nchw"), "bf16 is for inference alone"),
        (("eager", "inference", "cpu", "int8", "nchw"), "eager runs fp32, amp-fp16, amp-bf16, fp16, bf16 alone"),
        (("eager", "inference", "cpu", "fp16", "nchw"), None),
        (("openvino", "inference", "cpu", "bf16", "nchw"), None),
        (("compile:freezing", "inference", "cpu", "int8-pt2e", "nchw"), None),
        (("compile", "inference", "cpu", "int8-pt2e", "nchw"), "compile:freezing runs int8-pt2e"),
        (("compile:freezing", "inference", "cuda", "int8-pt2e", "nchw"), "are those of x86 CPUs"),
        (("compile:freezing", "training", "cpu", "int8-pt2e", "nchw"), "int8-pt2e is for inference alone"),
        (("compile:freezing", "training", "cpu", "fp32", "nchw"), "compile:freezing is for inference alone"),
        (("compile:freezing", "inference", "cpu", "int8", "nchw"), "bf16, int8-pt2e alone"),
        (("ort", "inference", "cpu", "int8-pt2e", "nchw"), "int8-7bit, int8-signed alone"),
        (("aot", "inference", "cpu", "bf16", "nchw"), "aot runs fp32 alone"),
    ],
)
def test_what_cannot_exist_is_known_beforehand(asked: tuple[str, str, str, str, str], reason: str | None) -> None:
    said = cannot(*asked)
    assert (said is None) == (reason is None)
    assert reason is None or reason in str(said)


@pytest.mark.parametrize(("machine_name", "is_there"), [("x86_64", False), ("aarch64", True)])
def test_half_precision_on_a_cpu_depends_on_the_processor(
    monkeypatch: pytest.MonkeyPatch, machine_name: str, is_there: bool
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine_name)
    assert (cannot("ort", "inference", "cpu", "fp16", "nchw") is None) == is_there


def test_a_number_format_that_the_processor_has_not_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    probed = Probed(works=True, name="cpu", formats=("fp32", "int8"))
    monkeypatch.setattr(probe, "_probed", lambda pairs, logs: dict.fromkeys(pairs, probed))
    cases = [case_of(runtime="openvino", precision=each) for each in ("fp32", "bf16", "int8")]
    reasons, _ = probe.find_unavailable(cases, tmp_path)
    assert {id_: str(reason) for id_, reason in reasons.items()} == {
        cases[1].id: "unsupported: on this processor openvino computes in fp32, int8 alone"
    }


def test_precisions_of_a_model_are_measured_in_one_group_and_ranked_apart(tmp_path: Path) -> None:
    suite = load_suite(
        write_suite(
            tmp_path,
            "defaults: {workloads: [inference], runtimes: [eager, ort], precisions: [fp32, int8], batches: [1],"
            " calibration: shapes}\nmodels: [simple_cnn]\n",
        )
    )
    assert [each.calibration for each in suite.cases] == ["noise", "noise", "shapes", "shapes"]
    (group,) = plan.group_cases(suite.cases)
    assert plan.title(group) == "simple_cnn/inference/eager+ort/cpu/fp32+int8/b1"
    assert len({each.work_key for each in group}) == 2
    ahead = plan.compiled_ahead([group], suite.cases[0].spec)
    assert [each.id for each in ahead] == ["simple_cnn/inference/ort/cpu/int8/cal:shapes/b1"]


def test_calibration_is_for_what_is_quantised() -> None:
    with pytest.raises(ValueError, match="nothing is quantised in fp32; got calibration 'shapes'"):
        case_of(runtime="ort", calibration="shapes")


def of_precision(precision: Precision, call_s: float) -> Record:
    """Of LeNet-5 in ONNX Runtime."""
    asked = case("ort").model_copy(update={"precision": precision})
    ran = Ran(
        device="cpu",
        device_name="cpu",
        threads=2,
        precision="fp32",
        operators={"QLinearConv": 2, "QuantizeLinear": 3, "DequantizeLinear": 1},
        shares={} if precision == "fp32" else {"int8": 0.9, "fp32": 0.1},
        facts={"int8_instructions": "avx512_vnni"},
    )
    found = record(asked, [call_s] * 8)
    launches = [each.model_copy(update={"ran": ran}) for each in found.launches]
    environment = ENVIRONMENT.model_copy(update={"threads": Threads(used=(2,), usable=2)})
    return found.model_copy(update={"measurement": Measurement(launches=launches), "environment": environment})


def test_a_precision_is_shown_beside_float32_of_the_same_runtime() -> None:
    records = {each.id: each for each in (of_precision("fp32", 0.02), of_precision("int8", 0.01))}
    rows = case_rows(list(records.values()))
    assert [row.vs_fp32.value if row.vs_fp32 else None for row in rows] == [None, pytest.approx(2.0)]
    table = precision_table(rows, records)
    (row,) = table.texts
    shown = dict(zip(table.headings, row, strict=True))
    assert (shown["MACs as asked"], shown["conversions"], shown["calibrated on"]) == ("90 %", "4", "noise")
    assert "calibrated on noise" in table.notes[0]


def test_a_sentence_says_why_int8_pays_or_not(tmp_path: Path) -> None:
    records = {each.id: each for each in (of_precision("fp32", 0.02), of_precision("int8", 0.01))}
    known = peaks(threads=2)
    faster = known.throughputs[0].model_copy(update={"precision": "int8", "flop": 3 * known.throughputs[0].flop})
    known = known.model_copy(update={"throughputs": [*known.throughputs, faster]})
    run = Run(tmp_path, "suite", "", ENVIRONMENT, records, peaks=[known])
    int8 = next(id_ for id_ in records if "int8" in id_)
    assert int8_paragraph(explain(run).values(), {int8: 2.0}) == (
        "int8 is 2.0 times as fast as float32 (lenet5, ONNX Runtime, batch 8): 90 % of its MACs ran in int8, by "
        "avx512_vnni, this machine's int8 peak is 3.0 times float32's, 4 conversions are left between the layers."
    )
    slower = int8_paragraph(explain(replace(run, peaks=[])).values(), {int8: 0.5})
    assert "int8 is 2.0 times slower than float32" in slower
    assert "peak" not in slower
    assert int8_paragraph(explain(run).values(), {}) == ""


def test_records_before_schema_10_mean_automatic_mixed_precision() -> None:
    written = record(case().model_copy(update={"precision": "bf16"}), [0.01] * 6)
    shared, content = shared_values(written), json.loads(record_line(written))
    assert parse_record(dict(content), shared, {}).case.precision == "bf16"
    old = {**content, "schema_version": 9}
    read = parse_record(dict(old), shared, {})
    assert (read.case.precision, read.id) == ("amp-bf16", "lenet5/inference/eager/cpu/amp-bf16/b8")
    launches = old.pop("launches")
    later = parse_record({**old, "earlier": len(launches), "launches": []}, shared, {read.id: read})
    assert later.launches == read.launches


def test_doctor_says_which_int8_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "int8_instructions", lambda: ("avx512_vnni",))
    assert machine.int8_fit().startswith("int8 fits this processor")
    monkeypatch.setattr(machine, "int8_instructions", lambda: ())
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert machine.int8_fit().startswith("int8-7bit fits this processor: it has no VNNI")


@pytest.mark.slow
def test_a_run_compares_precisions_and_goes_on_where_one_cannot_be(program: Cli, home: Path) -> None:
    suite = write_suite(
        home,
        "name: precisions\nlaunches: 1\nbudget: 5m\n"
        "defaults: {workloads: [inference], runtimes: [eager, ort], batches: [2], case_budget: 0.3s,"
        " precisions: [fp32, bf16, int8]}\n"
        "models: [lenet5, {model: simple_cnn, calibration: nowhere}]\n",
    )
    done = program("run", suite, "--out", "out", "--tables")
    assert done.returncode == 3, done.stderr + done.stdout
    records = read_run(home / "out").records
    status = {id_.removesuffix("/b2"): each.status for id_, each in records.items()}
    assert status["lenet5/inference/ort/cpu/int8"] in ("ok", "noisy")
    assert status["lenet5/inference/eager/cpu/bf16"] in ("ok", "noisy")
    assert status["lenet5/inference/ort/cpu/bf16"] == status["lenet5/inference/eager/cpu/int8"] == "unavailable"
    assert status["simple_cnn/inference/ort/cpu/int8/cal:nowhere"] == "failed"
    assert status["simple_cnn/inference/ort/cpu/fp32"] in ("ok", "noisy")
    broken = records["simple_cnn/inference/ort/cpu/int8/cal:nowhere/b2"]
    assert broken.reasons[0].code == "no-graph"
    assert "nowhere: expected a data set; there is no such folder" in broken.reasons[0].detail
    quantised = records["lenet5/inference/ort/cpu/int8/b2"]
    assert quantised.graph is not None
    assert quantised.launches[0].group == records["lenet5/inference/ort/cpu/fp32/b2"].launches[0].group
    assert "vs fp32" in done.stdout
    assert "calibrated on noise" in done.stdout

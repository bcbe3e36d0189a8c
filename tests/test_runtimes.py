"""Every way to execute a model, in real children: what it computes, what really ran, and what is said if it did not."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from cnnbench.analysis.roofline import Work, lower_bound
from cnnbench.errors import InputError
from cnnbench.records import artifact
from cnnbench.records.messages import Build, Close, Closed, Load, Loaded, Open, Opened, Sample, Sampled, Warm, Warmed
from cnnbench.records.record import ArtifactFacts
from cnnbench.records.task_messages import Probe, Probed
from cnnbench.report.prose import name_of
from cnnbench.runner.fork_server import ForkServers
from cnnbench.runner.tasks.layer_profile import profile_artifact
from cnnbench.runner.worker_process import Worker
from cnnbench.suite.case import Case, ModelSpec
from cnnbench.suite.runtimes import BUILT_IN, cannot, check_name, runtimes
from tests.conftest import ROOT, Cli, write_suite
from tests.peaks import peaks

SMALL = ModelSpec(model="resnet_cifar", image_size=(16, 16), classes=10)


def build(spec: ModelSpec, logs: Path) -> tuple[Path, ArtifactFacts]:
    folder = artifact.folder_of(spec, "runtimes")
    with Worker(logs / "build.log", 2, 300) as worker:
        return folder, worker.ask(Build(spec=spec, key="runtimes", folder=str(folder)), ArtifactFacts)


@pytest.fixture(scope="module")
def small(artifact_of: Callable[[ModelSpec], Path]) -> Path:
    return artifact_of(SMALL)


def launch(case: Case, folder: Path, logs: Path) -> tuple[Opened, Closed]:
    """A case from load to close, with a few timed calls."""
    with Worker(logs / "launch.log", 2, 300) as worker:
        worker.ask(Load(case=case, threads=2), Loaded)
        opened = worker.ask(Open(case=case, folder=str(folder)), Opened)
        worker.ask(Warm(limit_s=0.1), Warmed)
        sampled = worker.ask(Sample(seconds=0.01), Sampled)
        assert all(second > 0 for seconds in sampled.seconds.values() for second in seconds)
        return opened, worker.ask(Close(), Closed)


def case_of(spec: ModelSpec = SMALL, **settings: object) -> Case:
    return Case.model_validate({"spec": spec, "workload": "inference", "batch": 2, **settings})


@pytest.mark.parametrize(
    ("settings", "precision"),
    [
        ({"runtime": "folded"}, "fp32"),
        ({"runtime": "eager", "layout": "channels_last"}, "fp32"),
        ({"runtime": "eager", "precision": "amp-bf16"}, "bf16"),
        ({"runtime": "eager", "precision": "amp-bf16", "workload": "training"}, "bf16"),
        ({"runtime": "eager", "precision": "bf16"}, "bf16"),
        pytest.param(
            {"runtime": "eager", "precision": "fp16", "layout": "channels_last"}, "fp16", marks=pytest.mark.slow
        ),
        pytest.param({"runtime": "compile", "precision": "bf16"}, "bf16", marks=pytest.mark.slow),
        pytest.param({"runtime": "compile:freezing"}, "fp32", marks=pytest.mark.slow),
        pytest.param({"runtime": "ort:disabled"}, "fp32", marks=pytest.mark.slow),
        ({"runtime": "ort:extended"}, "fp32"),
    ],
)
def test_a_runtime_computes_the_same_and_says_what_ran(
    small: Path, tmp_path: Path, settings: dict[str, str], precision: str
) -> None:
    case = case_of(SMALL, **settings)
    opened, closed = launch(case, small, tmp_path)
    assert all(parity.passed for parity in [*opened.parity, *closed.parity])
    assert closed.faults == []
    assert (closed.ran.device, closed.ran.precision) == ("cpu", precision)


def test_graph_optimisation_leaves_fewer_nodes(small: Path, tmp_path: Path) -> None:
    nodes = {}
    for runtime in ("ort:disabled", "ort"):
        _, closed = launch(case_of(runtime=runtime), small, tmp_path)
        nodes[runtime] = sum(closed.ran.operators.values())
    assert nodes["ort"] < nodes["ort:disabled"]


@pytest.mark.slow
def test_compile_tells_its_graphs_and_its_cache(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)  # which torch sets in this process when it is imported
    monkeypatch.setenv("CNNBENCH_CACHE", str(tmp_path / "cache"))
    case = case_of(runtime="compile")
    found = []
    for _ in range(2):
        opened, closed = launch(case, small, tmp_path)
        assert [parity.what for parity in opened.parity] == ["compile b2"]  # each batch would need its own compilation
        assert all(parity.passed for parity in [*opened.parity, *closed.parity])
        assert closed.faults == []
        facts = {key: closed.ran.facts[key] for key in ("graphs", "compile_cache")}
        found.append({**facts, "graph_breaks": closed.ran.graph_breaks})
        assert int(closed.ran.facts["kernels"] or 0) > 0 if len(found) == 1 else closed.ran.facts["kernels"] is None
    assert found == [
        {"graphs": 1, "graph_breaks": {}, "compile_cache": "cold"},
        {"graphs": 1, "graph_breaks": {}, "compile_cache": "warm"},
    ]


@pytest.mark.parametrize(
    ("model", "settings", "fault"),
    [
        pytest.param("Breaks", {"runtime": "compile"}, "graph-breaks: 1, the first: ", marks=pytest.mark.slow),
        (
            "Relays",
            {"runtime": "eager", "layout": "channels_last"},
            "layout: channels_last was lost before 1 of 2 conv",
        ),
    ],
)
def test_what_did_not_run_as_asked_is_a_fault(
    home: Path, tmp_path: Path, model: str, settings: dict[str, str], fault: str
) -> None:
    spec = ModelSpec(model=f"own_models:{model}", image_size=(16, 16))
    folder, _ = build(spec, tmp_path)
    _, closed = launch(case_of(spec, **settings), folder, tmp_path)
    assert len(closed.faults) == 1
    assert fault in str(closed.faults[0])


def test_denormal_activations_are_noticed_when_the_artifact_is_built(home: Path, small: Path, tmp_path: Path) -> None:
    _, facts = build(ModelSpec(model="own_models:Denormal", image_size=(16, 16)), tmp_path)
    assert facts.denormal_share > 0.9
    usual = artifact.read_facts(small)
    assert usual is not None
    assert usual.denormal_share < 1e-3


def test_a_debugger_is_noticed(tmp_path: Path) -> None:
    imported = "from cnnbench.worker.session import watchers"
    script = f"import sys; sys.settrace(lambda *_: None); {imported}; print(watchers())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "sys.settrace, as by a debugger or coverage tool" in done.stdout
    quiet = script.replace("sys.settrace(lambda *_: None); ", "")
    assert subprocess.run([sys.executable, "-c", quiet], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_compile_without_a_compiler_is_unavailable_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with Worker(tmp_path / "probe.log", 1, 120) as worker:
        probed = worker.ask(Probe(runtime="compile", device="cpu"), Probed)
    assert not probed.works
    assert "torch.compile needs a C++ compiler such as g++" in probed.reason


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (("ort", "training", "cpu", "fp32", "nchw"), None),
        (("ort:tensorrt", "training", "cuda", "fp32", "nchw"), "TensorRT is for inference alone"),
        (("folded", "training", "cpu", "fp32", "nchw"), "folded is for inference alone"),
        (("ort", "inference", "cpu", "bf16", "nchw"), "ort runs fp32, fp16, int8"),
        (("ort", "inference", "cpu", "fp32", "channels_last"), "ort has the layout nchw alone"),
        (("eager", "inference", "cpu", "amp-fp16", "nchw"), "automatic mixed precision on a CPU is amp-bf16"),
        (("ort:tensorrt", "inference", "cpu", "fp32", "nchw"), "TensorRT is for CUDA devices"),
        (("ort:cuda-graph", "training", "cuda", "fp32", "nchw"), "a CUDA graph is for inference alone"),
        (("ort:cuda-graph", "inference", "cpu", "fp32", "nchw"), "a CUDA graph is for CUDA devices"),
        (("ort:cuda-graph", "inference", "cuda", "fp16", "nchw"), None),
        (("compile", "training", "cuda", "amp-fp16", "channels_last"), None),
    ],
)
def test_what_no_machine_can_run_has_a_reason(settings: tuple[str, str, str, str, str], reason: str | None) -> None:
    said = cannot(*settings)
    assert (said is None) == (reason is None)
    assert reason is None or reason in str(said)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "onnxrt",
            "one of aot, compile, eager, folded, http, openvino, ort; got 'onnxrt' .did you mean 'ort'",
        ),
        ("ort:basics", "expected an ort variant, one of basic, cuda-graph, disabled, extended, tensorrt; got 'basics'"),
        ("eager:fast", "expected 'eager' without a variant; got 'eager:fast'"),
    ],
)
def test_a_runtime_that_does_not_exist_is_named(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_name(name)


def test_every_variant_is_a_name() -> None:
    for kind in BUILT_IN:
        assert check_name(kind.name) == kind.name
        for variant in kind.variants:
            assert check_name(f"{kind.name}:{variant}") == f"{kind.name}:{variant}"


def test_weights_of_another_network_fail_the_proof_in_bf16(small: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    shutil.copytree(small, wrong)
    weights = load_file(wrong / artifact.WEIGHTS)
    weights["conv1.weight"] = weights["conv1.weight"][::-1].copy()  # each filter in another's place
    save_file(weights, wrong / artifact.WEIGHTS)
    opened, closed = launch(case_of(runtime="eager", precision="amp-bf16"), wrong, tmp_path)
    assert not all(parity.passed for parity in [*opened.parity, *closed.parity])


def documented_runtime() -> str:
    """The example of docs/architecture.md."""
    blocks = (ROOT / "docs" / "architecture.md").read_text().split("```python\n")
    (block,) = (block.partition("```")[0] for block in blocks if block.startswith("# my_runtime.py"))
    return block


@pytest.mark.slow
def test_another_packages_runtime_takes_part_with_one_file_and_an_entry_point(
    program: Cli, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "my_runtime.py").write_text(documented_runtime())
    install(home, monkeypatch, "[cnnbench.runtimes]\nexported = my_runtime:Exported\n")
    suite = write_suite(
        home,
        "name: mine\nlaunches: 1\ndefaults: {workloads: [inference], runtimes: [exported, ort], batches: [2],"
        " case_budget: 0.1s}\nmodels: [lenet5]\n",
    )
    assert "my-package" in program("list", "runtimes").stdout
    done = program("run", suite, "--out", "out")
    assert done.returncode == 0, done.stderr + done.stdout
    assert '"lenet5/inference/exported/cpu/fp32/b2"' in (home / "out" / "records.jsonl").read_text()


PLUGIN = '''
from pathlib import Path

from cnnbench.worker.profilers import ort
from cnnbench.worker.runtimes.ort import OrtInference


class Mine(OrtInference):
    """ONNX Runtime under another name, as an engine that executes the exported graph."""


def profile(request, facts, batch, threads):
    return ort.profile(request, facts, batch, threads)
'''
TRAITS = """
from cnnbench.suite.runtimes import RuntimeKind

KIND = RuntimeKind(
    name="mine",
    what="my engine on the exported graph",
    display_name="My Engine",
    classes={"inference": "my_engine:Mine"},
    runs_exported_graph=True,
    call_library="torch",
    profiler="my_engine:profile",
)
"""


@pytest.fixture
def plugin(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A plugin's runtime `mine`, with traits."""
    (home / "my_engine.py").write_text(PLUGIN)
    (home / "my_traits.py").write_text(TRAITS)
    install(
        home,
        monkeypatch,
        "[cnnbench.runtimes]\nmine = my_engine:Mine\n[cnnbench.runtime_traits]\nmine = my_traits:KIND\n",
    )
    monkeypatch.syspath_prepend(str(home))
    runtimes.cache_clear()
    yield
    runtimes.cache_clear()


def install(home: Path, monkeypatch: pytest.MonkeyPatch, entry_points: str) -> None:
    """A package with entry points, for this process's children."""
    info = home / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    monkeypatch.setenv("PYTHONPATH", str(home) + os.pathsep + os.environ.get("PYTHONPATH", ""))


def test_a_plugin_with_traits_has_all_that_a_built_in_runtime_has(plugin: None, small: Path, tmp_path: Path) -> None:
    case = case_of(runtime="mine")
    assert case.is_exported
    assert not case_of(runtime="eager").is_exported
    assert name_of("mine") == "My Engine"
    work = Work(name="conv", kind="convolutions", macs=1, moved_bytes=1)
    assert lower_bound(work, case, peaks()).overhead_s == 5e-6
    facts = artifact.read_facts(small)
    assert facts is not None
    with ForkServers(tmp_path, 120) as servers:
        profile = profile_artifact(SMALL, facts, 2, 5, 1, servers)
    assert list(profile.times) == ["eager", "ort", "mine"]
    assert profile.failures == {}
    assert {row.name for row in profile.rows if "mine" in row.seconds} == {
        row.name for row in profile.rows if "ort" in row.seconds
    }


def test_traits_of_another_name_are_an_error(plugin: None, home: Path) -> None:
    entry_points = home / "my_package-1.0.dist-info" / "entry_points.txt"
    entry_points.write_text(entry_points.read_text().replace("mine =", "other ="))
    with pytest.raises(InputError, match="expected a RuntimeKind named 'other'"):
        runtimes()

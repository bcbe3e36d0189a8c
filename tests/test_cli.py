"""Every command as a user types it, and what it says of a mistake."""

import json
from pathlib import Path

import onnx
import pytest

from cnnbench.networks.registry import ARCHITECTURES
from cnnbench.records import task_messages
from tests import scripted
from tests.conftest import Cli
from tests.scripted import Says

COMMANDS = [
    "run",
    "list",
    "cases",
    "count",
    "show",
    "verify",
    "profile",
    "diverge",
    "inspect",
    "export",
    "report",
    "compare",
    "convert",
    "gate",
    "doctor",
    "schema",
]


def test_help_lists_every_command_and_each_has_an_example(cli: Cli) -> None:
    overview = cli("--help").stdout
    for command in COMMANDS:
        assert f" {command} " in overview
        assert f"Example: cnnbench {command}" in " ".join(cli(command, "--help").stdout.split())


def test_count_gives_layers_in_json(cli: Cli) -> None:
    (lenet,) = json.loads(cli("count", "lenet5", "--json").stdout)
    assert (lenet["model"], lenet["params"], lenet["macs"]) == ("lenet5", 44_426, 281_640)
    assert lenet["layers"][0] == {
        "name": "conv1",
        "op": "Conv",
        "output_shape": [1, 6, 24, 24],
        "params": 156,
        "macs": 86_400,
        "elementwise": 3_456,  # a bias for each value
        "weight_bytes": 624,
        "activation_bytes": 13_824,
        "moved_bytes": 3_136 + 624 + 13_824,
        "training_only": False,
    }
    assert sum(layer["macs"] for layer in lenet["layers"]) == lenet["macs"]


def test_count_without_a_model_counts_all(cli: Cli) -> None:
    lines = cli("count").stdout.splitlines()
    assert len(lines) == len(ARCHITECTURES) + 1
    assert any(line.split() == ["resnet18", "11,689,512", "1,814,073,344"] for line in lines)


def test_what_if_gives_another_member_of_the_family(cli: Cli) -> None:
    (b1,) = json.loads(cli("count", "efficientnet_b0", "--what-if", "depth=1.1,resolution=240", "--json").stdout)
    assert (b1["params"], b1["macs"]) == (7_794_184, ARCHITECTURES["efficientnet_b1"].network().macs)
    said = cli("count", "mobilenet_v2", "--what-if", "width=0.5").stdout
    assert "0.562 x the parameters and 0.323 x the MACs of mobilenet_v2" in said


def test_show_puts_the_numbers_into_the_formulas(cli: Cli) -> None:
    shown = cli("show", "simple_cnn", "--batch", "2").stdout
    assert "3*3*32*64 + 64 = 18,496" in shown
    assert "2*11*11*64*3*3*32 = 4,460,544" in shown
    assert "parameters: fc1 91.1 %" in shown  # what dominates


def test_show_gives_totals_as_expressions(cli: Cli) -> None:
    assert "parameters = 11,176,512 + 513 K" in cli("show", "resnet18", "--formula").stdout


def test_show_reads_a_users_own_module_as_it_runs(cli: Cli) -> None:
    shown = json.loads(cli("show", "own_models:works", "--image-size", "32", "--json").stdout)
    assert (shown["params"], shown["left_out"]) == (3 * 3 * 3 * 8 + 16 + 45, [])
    assert shown["macs"] == 30 * 30 * 8 * 27 + 40
    assert [layer["name"] for layer in shown["layers"]][:3] == ["0", "1", "2"]


def test_count_takes_size_classes_and_batch(cli: Cli) -> None:
    words = ("count", "resnet18", "--image-size", "64x96", "--classes", "7", "--batch", "3", "--json")
    (resnet,) = json.loads(cli(*words).stdout)
    assert resnet["params"] == 11_176_512 + 513 * 7
    assert resnet["layers"][0]["output_shape"] == [3, 64, 32, 48]
    assert "fc" in cli("count", "resnet18").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("count", "resnet81"), "did you mean 'resnet18'"),
        (("count", "lenet5", "--image-size", "8"), "image of 8x8 is too small for lenet5: layer 'conv2'"),
        (
            ("count", "lenet5", "--image-size", "0"),
            "--image-size: expected an image of at least one pixel; got '0'",
        ),
        (("count", "mobilenet_v2", "--what-if", "widht=1"), "did you mean 'width'?"),
        (("count", "mobilenet_v2", "--what-if", "width"), "--what-if: expected settings such as"),
        (("count", "mobilenet_v2", "--what-if", "width=-1"), "width: expected a number above zero; got '-1'"),
        (("count", "--what-if", "width=1"), "--what-if: expected a model"),
        (("show", "torchvision/vit_b_16", "--formula"), "expected a model with a closed form"),
        (("show", "own_models:raises"), "raises when it is built: RuntimeError"),
        (("run", "nowhere.yaml"), "no such suite file"),
        (("run", "smoke", "--only", "vgg*"), "fits none of 36"),
        (("run", "smoke", "--budget", "soon"), "--budget: expected a duration"),
        (("run", "smoke", "--resume"), "--resume: expected --out"),
        (("cases", "own_models.py"), "own_models.py:"),
        (("verify", "nope"), "MODEL: expected a model"),
        (("verify", "own_models:raises"), "raises when it is built: RuntimeError"),
        (("export", "lenet5", "--out", "no/such/folder/x.onnx"), "there is no no/such/folder"),
        (("export", "lenet5", "--out", "."), "got a folder"),
        (("report", "."), "expected a run's folder"),
        (("compare", "nowhere"), "expected a run's folder"),
    ],
)
def test_bad_input_is_one_clear_message_and_exit_code_2(cli: Cli, words: tuple[str, ...], message: str) -> None:
    done = cli(*words)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("show",),
        ("count", "lenet5", "--batch", "0"),
        ("list", "modles"),
        ("nothing",),
        ("run", "smoke", "--fast"),
    ],
)
def test_usage_errors_exit_with_2(cli: Cli, words: tuple[str, ...]) -> None:
    done = cli(*words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_lists(cli: Cli) -> None:
    models = json.loads(cli("list", "models", "--json").stdout)
    assert {"lenet5", "resnet50", "efficientnet_b7"} <= {row["model"] for row in models}
    runtimes = [row["runtime"] for row in json.loads(cli("list", "runtimes", "--json").stdout)]
    assert runtimes == ["eager", "folded", "compile", "aot", "ort", "openvino", "http"]
    assert "classic" in cli("list", "suites").stdout


def test_devices_are_listed_as_they_were_found(cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    works, broken = (
        task_messages.Probed(works=True, name="Testing CPU"),
        task_messages.Probed(works=False, reason="no driver"),
    )
    scripted.use(monkeypatch, home, Says("probe", works, device="cpu"), Says("probe", broken))
    devices = json.loads(cli("list", "devices", "--json").stdout)
    assert [(row["works"], row["why"]) for row in devices if row["device"] == "cuda"] == [("no", "no driver")] * 6
    assert [row["works"] for row in devices if row["device"] == "cpu"] == ["yes"] * 6


@pytest.mark.slow
def test_all_runtimes_work_on_the_cpu(cli: Cli) -> None:
    devices = json.loads(cli("list", "devices", "--json").stdout)
    assert [row["works"] for row in devices if row["device"] == "cpu"] == ["yes"] * 6
    assert all(row["works"] == "yes" or row["why"] for row in devices)


def test_cases_shows_what_would_run(cli: Cli) -> None:
    lines = cli("cases", "smoke", "--only", "lenet5/training/*").stdout.splitlines()
    runs = [f"{runtime}/{device}" for device in ("cpu", "cuda") for runtime in ("eager", "ort")]
    assert lines == [f"lenet5/training/{run}/fp32/b8" for run in runs]
    assert json.loads(cli("cases", "smoke", "--json").stdout)[0]["id"] == "lenet5/inference/eager/cpu/fp32/b1"


def test_verify_agrees_and_shows_every_witness(cli: Cli) -> None:
    done = cli("verify", "lenet5", "--json")
    assert done.returncode == 0, done.stderr
    (lenet,) = json.loads(done.stdout)
    assert lenet["agree"]
    assert lenet["macs"] == dict.fromkeys(("closed form", "dispatch", "fvcore", "onnx"), 281_640)
    assert lenet["params"] == dict.fromkeys(("closed form", "module", "onnx"), 44_426)
    assert set(lenet["backward"]) == {"closed form", "dispatch"}


@pytest.mark.slow
def test_verify_shows_what_was_published(cli: Cli) -> None:
    (resnet,) = json.loads(cli("verify", "resnet18", "--json").stdout)
    assert resnet["params"] == dict.fromkeys(("closed form", "module", "onnx"), 11_689_512)
    assert resnet["backward"] == dict.fromkeys(("closed form", "dispatch"), 2 * 1_814_073_344 - 118_013_952)
    assert resnet["published"]["torchvision, ResNet18_Weights.IMAGENET1K_V1"] == "11,689,512 parameters, 1.814 G MACs"
    assert resnet["published"]["He et al. 2015, table 1"] == "1.8 G MACs"


@pytest.mark.slow
def test_verify_shows_a_known_difference_with_its_reason(cli: Cli) -> None:
    done = cli("verify", "googlenet")
    assert done.returncode == 0, done.stderr
    assert "googlenet: all agree, 1 known difference(s)  [1 of 1, about 0 s left]" in done.stdout
    assert "published: 6,624,904 parameters, without the 6,379,984 of the auxiliary heads" in done.stdout


def test_export_writes_a_graph_that_onnx_accepts_with_a_dynamic_batch(cli: Cli, home: Path) -> None:
    done = cli("export", "lenet5", "--out", "lenet5.onnx", "--classes", "7")
    assert done.returncode == 0, done.stderr
    assert "ort b3" in done.stdout  # at a batch that it was not exported at
    graph = onnx.load(home / "lenet5.onnx")
    onnx.checker.check_model(graph, full_check=True)
    shape = graph.graph.input[0].type.tensor_type.shape.dim
    assert shape[0].dim_param
    assert [d.dim_value for d in shape[1:]] == [1, 28, 28]
    assert graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 7


def test_doctor_names_the_machine_its_devices_and_interference(
    cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.use(monkeypatch, home, Says("probe", task_messages.Probed(works=True, name="Testing device")))
    report = json.loads(cli("doctor", "--json").stdout)
    assert report["machine"]["cpu"]
    assert isinstance(report["interference"], list)
    assert {row["device"] for row in report["devices"]} == {"cpu", "cuda"}
    assert "Testing device" in cli("doctor").stdout


def test_the_schema_is_printed(cli: Cli) -> None:
    assert json.loads(cli("schema").stdout)["title"] == "cnnbench suite"


def test_version(cli: Cli) -> None:
    import cnnbench

    assert cli("--version").stdout.strip() == cnnbench.__version__

"""Every command as a user types it, and what it says of a mistake."""

import json
from pathlib import Path

import onnx
import pytest

from tests.conftest import Cli

COMMANDS = ["run", "list", "cases", "count", "verify", "export", "report", "compare", "doctor", "schema"]


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
    }
    assert sum(layer["macs"] for layer in lenet["layers"]) == lenet["macs"]


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
        (("run", "nowhere.yaml"), "no such suite file"),
        (("run", "smoke", "--only", "vgg*"), "fits none of 30"),
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
        ("count",),
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
    assert [row["runtime"] for row in json.loads(cli("list", "runtimes", "--json").stdout)] == [
        "eager",
        "ort",
    ]
    assert "classic" in cli("list", "suites").stdout
    devices = json.loads(cli("list", "devices", "--json").stdout)
    assert [row["works"] for row in devices if row["device"] == "cpu"] == ["yes", "yes"]
    assert all(row["works"] == "yes" or row["why"] for row in devices)


def test_cases_shows_what_would_run(cli: Cli) -> None:
    lines = cli("cases", "smoke", "--only", "lenet5/training/*").stdout.splitlines()
    assert lines == ["lenet5/training/eager/cpu/fp32/b8", "lenet5/training/eager/cuda/fp32/b8"]
    assert json.loads(cli("cases", "smoke", "--json").stdout)[0]["id"] == "lenet5/inference/eager/cpu/fp32/b1"


def test_verify_agrees_and_shows_every_witness(cli: Cli) -> None:
    done = cli("verify", "lenet5", "resnet18", "--json")
    assert done.returncode == 0, done.stderr
    lenet, resnet = json.loads(done.stdout)
    assert lenet["agree"]
    assert set(lenet["macs"].items()) == {
        ("closed form", 281_640),
        ("dispatch", 281_640),
        ("fvcore", 281_640),
    }
    assert resnet["params"] == {"closed form": 11_689_512, "module": 11_689_512}
    assert (resnet["published_params"], resnet["published_giga_macs"]) == (11_689_512, 1.814)


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


def test_doctor_names_the_machine_its_devices_and_what_disturbs(cli: Cli) -> None:
    report = json.loads(cli("doctor", "--json").stdout)
    assert report["machine"]["cpu"]
    assert isinstance(report["disturbances"], list)
    assert {row["device"] for row in report["devices"]} == {"cpu", "cuda"}
    assert "devices" in cli("doctor").stdout


def test_the_schema_is_printed(cli: Cli) -> None:
    assert json.loads(cli("schema").stdout)["title"] == "cnnbench suite"


def test_version(cli: Cli) -> None:
    import cnnbench

    assert cli("--version").stdout.strip() == cnnbench.__version__

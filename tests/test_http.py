"""A server over HTTP is asked by the open inference protocol; a bad answer is one sentence."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cnnbench.errors import WorkerError
from cnnbench.records.messages import Open
from cnnbench.records.run_folder import read_run
from cnnbench.suite.case import Case, ModelSpec
from cnnbench.worker.runtimes import http
from cnnbench.worker.session import Session
from tests.conftest import Cli, write_suite
from tests.inference_server import Answer, hangs, model_of, serving

CASE = Case(spec=ModelSpec.checked("lenet5", None, None), workload="inference", runtime="http", batch=2)


def asked(address: str, folder: Path, patch: pytest.MonkeyPatch) -> Session:
    """An open session that asks the server."""
    patch.setenv("CNNBENCH_TARGET", address)
    return Session(Open(case=CASE, folder=str(folder)), 1, 0)


def test_a_servers_outputs_are_compared_with_the_reference(
    artifact_of: Callable[[ModelSpec], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = artifact_of(CASE.spec)
    with serving(model_of(folder / "model.onnx")) as address:
        session = asked(address, folder, monkeypatch)
        assert http.Http.probe("cpu") == "cpu"
        assert all(parity.passed for parity in session.open().parity)
        session.phases["forward"]()
        closed = session.close()
        assert all(parity.passed for parity in closed.parity)
        assert closed.ran.facts == {"target": address, "name": "small", "version": "1"}
    with serving(lambda images: np.zeros((len(images), 10), np.float32)) as address:
        assert not any(parity.passed for parity in asked(address, folder, monkeypatch).open().parity)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda _: b"rubbish", r"expected a JSON object for POST /v2/models/lenet5/infer; got 'rubbish'"),
        (lambda _: b"{}", "expected 'outputs' by name"),
        (lambda _: b'{"outputs": [{"name": "other"}]}', "expected an output 'logits'; got other"),
        (lambda _: b'{"outputs": [{"name": "logits", "shape": [3], "data": [1, 2]}]}', "no array of its shape"),
        (hangs, "no answer within 1 s to POST"),
    ],
)
def test_a_bad_answer_is_one_sentence(
    artifact_of: Callable[[ModelSpec], Path], monkeypatch: pytest.MonkeyPatch, answer: Answer, error: str
) -> None:
    monkeypatch.setattr(http, "TIMEOUT_S", 1.0)
    with serving(answer) as address:
        session = asked(address, artifact_of(CASE.spec), monkeypatch)
        with pytest.raises(WorkerError, match=error):
            session.open()


def test_a_server_that_is_not_there_or_has_no_such_model_is_one_sentence(
    artifact_of: Callable[[ModelSpec], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(hangs, "another") as address:
        with pytest.raises(WorkerError, match="expected status 200 for GET /v2/models/lenet5; got 404"):
            asked(address, artifact_of(CASE.spec), monkeypatch)
        asked(f"{address}/v2/models/another", artifact_of(CASE.spec), monkeypatch)
    with pytest.raises(WorkerError, match=r"no server answers: .*refused"):
        http.Http.probe("cpu")
    monkeypatch.delenv("CNNBENCH_TARGET")
    with pytest.raises(WorkerError, match="give cnnbench run --target its address"):
        http.Http.probe("cpu")


@pytest.mark.parametrize(
    "target", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://user@host", "http://h:99999"]
)
def test_a_target_that_is_no_address_is_bad_input(cli: Cli, home: Path, target: str) -> None:
    done = cli("run", write_suite(home, "{defaults: {workloads: [serving]}, models: [lenet5]}"), "--target", target)
    assert done.returncode == 2
    assert "--target: expected an address such as http://127.0.0.1:8000" in done.stderr


def test_a_suite_without_services_has_nothing_to_ask(cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNBENCH_TARGET", "")  # restored afterwards
    done = cli("run", write_suite(home, "models: [lenet5]"), "--target", "http://127.0.0.1:1")
    assert (done.returncode, "expected cases of the workload serving" in done.stderr) == (2, True)


@pytest.mark.slow
def test_loadgen_drives_a_server_over_http(
    cli: Cli,
    home: Path,
    artifact_of: Callable[[ModelSpec], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CNNBENCH_TARGET", "")  # restored afterwards
    suite = write_suite(home, "{launches: 1, defaults: {workloads: [serving], case_budget: 8s}, models: [lenet5]}")
    with serving(model_of(artifact_of(CASE.spec) / "model.onnx")) as address:
        done = cli("run", suite, "--out", "run", "--budget", "60s", "--target", address)
    (record,) = read_run(home / "run").records.values()
    assert record.id == "lenet5/serving/http/cpu/fp32/b1"
    assert record.status in ("ok", "noisy"), done.stdout
    (launch,) = record.launches
    assert launch.serving is not None
    assert {test.scenario for test in launch.serving.tests} == {"single", "multi", "server", "offline"}

"""A server over HTTP that speaks the open inference protocol 2, as Triton, KServe and OpenVINO Model Server do.

JSON alone: what a request takes includes writing and reading it, but for the body of images that were sent before.
https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

import http.client
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import numpy as np

from cnnbench.errors import WorkerError
from cnnbench.records.record import ArtifactFacts, Ran
from cnnbench.suite.case import Case, Device
from cnnbench.suite.runtimes import TARGET
from cnnbench.worker.reference.parity import Array, Tensors, several
from cnnbench.worker.runtimes.base import Runtime
from cnnbench.worker.timing.measure import Phases

TIMEOUT_S = 60.0
MODELS = "/v2/models/"
MAX_BYTES = 2**28
"""Of an answer."""
KEPT_BODIES = 64


class Http(Runtime):
    """Timed: a request with the batch, until its answer is read. One connection, which is kept."""

    def __init__(self, case: Case, facts: ArtifactFacts, folder: Path, batch: Tensors, threads: int) -> None:
        self.case, self.threads = case, threads
        self.address = _address()
        self.connection = _connection(self.address)
        self.bodies: dict[int, bytes] = {}
        path = urlsplit(self.address).path.rstrip("/")
        prefix, found, name = path.partition(MODELS)
        name = unquote(name) if found else Path(case.spec.model).stem
        self.path = f"{prefix if found else path}{MODELS}{quote(name, safe='')}"
        about = self._ask("GET", self.path)
        self.inputs = [each["name"] for each in _listed(about, "inputs", self.path)]
        self.outputs = [each["name"] for each in _listed(about, "outputs", self.path)]
        if len(self.inputs) != len(several(batch)):
            raise WorkerError(f"{self.path}: expected {len(several(batch))} inputs; got {', '.join(self.inputs)}")
        self.server = self._ask("GET", self.path.partition(MODELS)[0] + "/v2")
        self.batch = batch
        self.last: Tensors = ()

    def __del__(self) -> None:
        if hasattr(self, "connection"):
            self.connection.close()

    @classmethod
    def probe(cls, device: Device, variant: str = "") -> str:
        """Ask whether it is ready. Raises WorkerError where there is no address, or no server there."""
        if device != "cpu":
            raise WorkerError("where a server runs its model is its own affair; leave out the device")
        address = _address()
        path = urlsplit(address).path.partition(MODELS)[0].rstrip("/") + "/v2/health/ready"
        connection = _connection(address)
        try:
            connection.request("GET", path)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            raise WorkerError(f"{address}: no server answers: {_said(error)}") from None
        finally:
            connection.close()
        if status != 200:
            raise WorkerError(f"{address}{path}: expected status 200; got {status}")
        return device

    def predict(self, images: Tensors) -> Tensors:
        arrays = several(images)
        key = hash(tuple(array.tobytes() for array in arrays))
        body = self.bodies.get(key)
        if body is None:
            inputs = [
                {
                    "name": name,
                    "shape": list(x.shape),
                    "datatype": "FP32",
                    "data": x.astype(np.float32).ravel().tolist(),
                }
                for name, x in zip(self.inputs, arrays, strict=True)
            ]
            body = json.dumps({"inputs": inputs}).encode()
            if len(self.bodies) < KEPT_BODIES:
                self.bodies[key] = body
        answer = self._ask("POST", f"{self.path}/infer", body)
        found = {each.get("name"): each for each in _listed(answer, "outputs", self.path)}
        if missing := [name for name in self.outputs if name not in found]:
            raise WorkerError(f"{self.path}: expected an output {missing[0]!r}; got {', '.join(map(str, found))}")
        try:
            outputs = tuple(_array(found[name]) for name in self.outputs)
        except (KeyError, TypeError, ValueError) as error:
            raise WorkerError(f"{self.path}: an output is no array of its shape: {_said(error)}") from None
        return outputs if len(outputs) > 1 else outputs[0]

    def phases(self) -> Phases:
        def forward() -> None:
            self.last = self.predict(self.batch)

        return {"forward": forward}

    def result(self) -> Tensors:
        return self.last

    def ran(self) -> Ran:
        """What the server says of itself; its device, threads and memory are not known here."""
        return Ran(
            device=self.case.device,
            device_name=self.address,
            threads=self.threads,
            precision=self.case.precision,
            facts={"target": self.address, **{key: str(self.server.get(key)) for key in ("name", "version")}},
        )

    def _ask(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        """The object of an answer. Raises WorkerError for any other answer, or none; a redirection is another."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        for is_last in (False, True):
            try:
                self.connection.request(method, path, body, headers)
                response = self.connection.getresponse()
                text = response.read(MAX_BYTES)
                break
            except TimeoutError:
                self.connection.close()
                raise WorkerError(f"{self.address}: no answer within {TIMEOUT_S:g} s to {method} {path}") from None
            except (OSError, http.client.HTTPException) as error:
                self.connection.close()  # it may have been idle for too long; the next request opens it again
                if is_last:
                    raise WorkerError(f"{self.address}: no answer to {method} {path}: {_said(error)}") from None
        shown = text[:100].decode(errors="replace")
        if response.status != 200:
            raise WorkerError(
                f"{self.address}: expected status 200 for {method} {path}; got {response.status}: {shown}"
            )
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise WorkerError(f"{self.address}: expected a JSON object for {method} {path}; got {shown!r}")
        return found


def _address() -> str:
    address = os.environ.get(TARGET, "")
    if not address:
        raise WorkerError("there is no server to ask; give cnnbench run --target its address")
    return address


def _connection(address: str) -> http.client.HTTPConnection:
    """Straight to the server: no proxy, no redirection."""
    parts = urlsplit(address)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(parts.hostname or "", parts.port, timeout=TIMEOUT_S)


def _listed(answer: dict[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    found = answer.get(key)
    if not isinstance(found, list) or not found or not all(isinstance(each, dict) and "name" in each for each in found):
        raise WorkerError(
            f"{where}: expected {key!r} by name, as in the open inference protocol; got {str(answer)[:100]}"
        )
    return found


def _array(output: dict[str, Any]) -> Array:
    return np.asarray(output["data"], np.float32).reshape(output["shape"])


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__

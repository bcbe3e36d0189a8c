"""A small server over HTTP that speaks the open inference protocol 2, in a thread; it can also do so badly."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

Answer = Callable[[Any], Any]
"""What an inference gives for the images: an array of outputs, or bytes that are sent as they are."""


def model_of(graph: Path) -> Answer:
    """ONNX Runtime on a graph of one input and one output."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


@contextmanager
def serving(answer: Answer, name: str = "lenet5") -> Iterator[str]:
    """Serve; gives the address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            about = {
                "/v2": {"name": "small", "version": "1"},
                "/v2/health/ready": {},
                f"/v2/models/{name}": {
                    "name": name,
                    "inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, 1, 28, 28]}],
                    "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
                },
            }
            found = about.get(self.path)
            self._send(200 if found is not None else 404, json.dumps(found or {"error": "unknown"}).encode())

        def do_POST(self) -> None:
            (given,) = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]
            found = answer(np.asarray(given["data"], np.float32).reshape(given["shape"]))
            if not isinstance(found, bytes):
                output = {"name": "logits", "datatype": "FP32", "shape": list(found.shape)}
                found = json.dumps({"outputs": [{**output, "data": found.ravel().tolist()}]}).encode()
            self._send(200, found)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Say nothing of a client that has not waited."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def hangs(_: Any) -> Any:
    """An answer that comes too late."""
    time.sleep(3.0)
    return b""

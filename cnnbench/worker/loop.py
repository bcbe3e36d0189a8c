"""The worker's loop: one JSON request per line in, one reply per line out.

Libraries print as they like: what they write goes to standard error, and only replies go to the real standard output.
"""

import contextlib
import ctypes
import os
import pkgutil
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

from pydantic import Field, TypeAdapter, ValidationError

from cnnbench.errors import CnnbenchError, InputError, WorkerError, WorkerOutOfMemory
from cnnbench.records import messages, serving_messages, task_messages
from cnnbench.records.serving import LoadTest
from cnnbench.worker import forking
from cnnbench.worker.layerwise.serve import Reading
from cnnbench.worker.runtimes.registry import import_libraries
from cnnbench.worker.serving.service import Service
from cnnbench.worker.session import Session, profile
from cnnbench.worker.timing import usage

if TYPE_CHECKING:
    from cnnbench.worker.classification import Classification
    from cnnbench.worker.training_run import TrainingRun

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Answer requests on standard input until it ends; file descriptor 1 then leads to standard error."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, replies)


def serve(requests: TextIO, replies: TextIO) -> None:
    """Answer requests until they end, or the parent does."""
    _die_with_parent()
    process = Process()
    for line in filter(str.strip, requests):
        replies.write(_answer(process, line).model_dump_json() + "\n")
        replies.flush()


def _answer(process: "Process", line: str) -> messages.Reply:
    try:
        request = REQUESTS.validate_json(line)
        handler = HANDLERS[type(request)]
        return _resolved(handler)(request) if isinstance(handler, str) else handler(process, request)
    except ValidationError as error:
        return messages.Failure(failure=f"not a request: {error}", is_user_error=True)
    except CnnbenchError as error:
        is_full = isinstance(error, WorkerOutOfMemory)
        return messages.Failure(failure=str(error), is_user_error=isinstance(error, InputError), out_of_memory=is_full)
    except MemoryError:
        return messages.Failure(failure="memory could not be allocated", is_user_error=False, out_of_memory=True)
    except Exception as error:
        traceback.print_exc()  # into the worker's log
        text = " ".join(str(error).split())
        out_of_memory = "allocate memory" in text or "out of memory" in text.lower()
        case = getattr(request, "case", None)
        subject = f"{case.runtime} cannot run {case.spec.label}: " if case else ""
        failure = f"{subject}{type(error).__name__}: {text}"[:500]
        return messages.Failure(failure=failure, is_user_error=False, out_of_memory=out_of_memory)


class Process:
    """What a worker process holds between requests: at most one case's session, training run and classification."""

    def __init__(self) -> None:
        self.threads = 1
        self.imported_bytes = 0
        self._session: Session | None = None
        self._training: TrainingRun | None = None
        self._classification: Classification | None = None
        self.layers = Reading()

    @property
    def session(self) -> Session:
        """Raises WorkerError where no case is open."""
        if self._session is None:
            raise WorkerError("no case is open; send an `open` request first")
        return self._session

    @property
    def training(self) -> "TrainingRun":
        """Raises WorkerError where no training was started."""
        if self._training is None:
            raise WorkerError("no training was started; send a `start_training` request first")
        return self._training

    def load(self, request: messages.Load) -> messages.Loaded:
        """Import what the case needs."""
        import_s = import_libraries(request.case, request.threads)
        self.threads = request.threads
        self.imported_bytes = usage.resident_bytes()
        return messages.Loaded(import_s=import_s)

    def open(self, request: messages.Open) -> messages.Opened:
        """Begin a session."""
        kind = Service if request.case.workload == "serving" else Session
        self._session = kind(request, self.threads, self.imported_bytes)
        return self._session.open()

    def drive(self, request: serving_messages.Drive) -> LoadTest:
        """Test what is served. Raises WorkerError where no case is, or one that is not served."""
        if not isinstance(self.session, Service):
            raise WorkerError("the open case is not served; open one of the workload serving")
        return self.session.drive(request)

    def start_training(self, request: task_messages.StartTraining) -> task_messages.TrainingStarted:
        """Begin a training run."""
        from cnnbench.worker.training_run import TrainingRun

        self._training = TrainingRun(request)
        return self._training.started()

    def start_classifying(self, request: task_messages.StartClassifying) -> task_messages.ClassifyingStarted:
        """Load what classifies."""
        from cnnbench.worker.classification import Classification

        self._classification = Classification(request, self.threads)
        return task_messages.ClassifyingStarted()

    def classify(self, request: task_messages.Classify) -> task_messages.Classified:
        """Go on. Raises WorkerError where nothing was loaded."""
        if self._classification is None:
            raise WorkerError("nothing classifies; send a `start_classifying` request first")
        return self._classification.advance(request.seconds)


PEAKS = {"torch": "peaks.pytorch:measure", "onnxruntime": "peaks.ort:measure"}
HANDLERS: Mapping[type[messages.Request], str | Callable[[Process, Any], messages.Reply]] = {
    messages.Count: "counting:count",
    messages.Trace: "counting:trace_model",
    messages.Build: "building:build_artifact",
    messages.BuildStep: "export.training.prove:build_step",
    messages.BuildPackage: "export.package:build_package",
    messages.BuildGraph: "precision_graph:build_graph",
    messages.Describe: "graph_file:describe",
    messages.FindKernels: "cuda_kernels:find_kernels",
    task_messages.Annotate: "graph_file:annotate",
    messages.Preload: "runtimes.registry:preload",
    task_messages.MeasurePeaks: lambda process, request: _resolved(PEAKS[request.library])(request),
    task_messages.Probe: "runtimes.registry:probe",
    messages.Fork: lambda process, request: forking.fork(request, serve),
    messages.Reap: lambda process, request: forking.reap(request),
    messages.Load: Process.load,
    messages.Open: Process.open,
    messages.Warm: lambda process, request: process.session.warm(request),
    messages.Sample: lambda process, request: process.session.sample(request),
    serving_messages.Drive: Process.drive,
    messages.Close: lambda process, request: process.session.close(),
    task_messages.Profile: lambda process, request: profile(request, process.threads),
    task_messages.OpenReference: lambda process, request: process.layers.open_reference(request),
    task_messages.ReadReference: lambda process, request: process.layers.read_reference(request),
    task_messages.OpenLayers: lambda process, request: process.layers.open_layers(request),
    task_messages.ReadLayers: lambda process, request: process.layers.read_layers(request),
    task_messages.StartTraining: Process.start_training,
    task_messages.Advance: lambda process, request: process.training.advance(request.seconds),
    task_messages.Evaluate: lambda process, request: process.training.evaluate(),
    task_messages.PrepareTest: "data.read:prepare_test",
    task_messages.Examine: "examination:examine",
    task_messages.MeasureInput: "data.pipeline:measure",
    task_messages.StartClassifying: Process.start_classifying,
    task_messages.Classify: Process.classify,
}
"""By type of request: a function of the request in a module that is imported for it, or one of this process."""
ANY_REQUEST: Any = Annotated[reduce(or_, HANDLERS), Field(discriminator="op")]
REQUESTS = TypeAdapter[messages.Request](ANY_REQUEST)


def _resolved(name: str) -> Callable[[Any], messages.Reply]:
    """A function in one of this room's modules, which is imported now."""
    function: Callable[[Any], messages.Reply] = pkgutil.resolve_name(f"cnnbench.worker.{name}")
    return function


def _die_with_parent() -> None:
    """Have Linux kill this process when its parent is gone, even while it is stopped, or else when memory runs out."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")

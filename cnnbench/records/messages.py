"""What a worker can be asked and what it answers: one JSON object per line each way.

A worker can be driven by hand: start `python -m cnnbench.worker` and type a request such as
`{"op": "probe", "runtime": "ort", "device": "cpu"}`.
"""

import json
from typing import Any, Literal

from pydantic import PositiveInt

from cnnbench.networks.trainable import ALL
from cnnbench.records.reason import Reason
from cnnbench.records.record import Memory, Parity, PhaseSeconds, Ran, Usage
from cnnbench.suite.case import Case, Frozen, ModelSpec, Trainable
from cnnbench.suite.optimizer import Optimizer

CHECKOUTS = "CNNBENCH_CHECKOUTS"
"""The variable that tells workers of another revision which checkout their code must not come from, and their own."""


class Request(Frozen):
    """What a worker can be asked, each with an `op` of its own; `cnnbench.worker.loop` has the table of them."""

    @property
    def line(self) -> str:
        """As it is sent: `op` and what is not the default.

        So a gate's older revision, whose worker does not know a later field, takes a request that does not use it.
        """
        said = {"op": getattr(self, "op", None), **self.model_dump(mode="json", exclude_defaults=True)}
        return json.dumps(said, separators=(",", ":"), ensure_ascii=False)


Reply = Frozen
"""What it answers: any value, of which many are in records too."""


class Count(Request):
    """Ask every counter for a model's counts."""

    op: Literal["count"] = "count"
    spec: ModelSpec


class Trace(Request):
    """Read a module as it runs, for a model that has no closed form."""

    op: Literal["walk"] = "walk"
    spec: ModelSpec


class Step(Frozen):
    """One layer of a module, as it was run for one image."""

    name: str
    op: str
    """The layer's kind, such as `Conv`."""
    settings: dict[str, Any]
    inputs: list[tuple[int, tuple[int, ...]]]
    """For each, the place of the step whose memory it lies in (-1 is the image's, -2 the second input's), and its shape
    for one image."""
    shape: tuple[int, ...]
    """What came out, for one image."""
    shared: int = 0
    """How many of its parameters a step before it has, too."""
    trained: int | None = None
    """How many of its other parameters training changes; all if None."""
    weight_is_trained: bool = True
    """Whether training computes the gradient of its weight."""
    gradients: list[bool] | None = None
    """For each input whether training computes its gradient; if None, wherever a layer before it has parameters."""


class Traced(Frozen):
    """All steps, in order, and what they should add up to."""

    inputs: list[tuple[int, ...]]
    """The shape of each of the model's."""
    steps: list[Step]
    params: dict[str, int]
    """Parameters by the submodule that holds them."""
    outputs: list[int] = []
    """The places of the steps that computed what the model puts out."""


class Build(Request):
    """Make a model's artifact in a folder that does not exist yet."""

    op: Literal["build"] = "build"
    spec: ModelSpec
    key: str
    folder: str
    weights: str | None = None
    """A file of weights to take instead of the model's own, where they fit it."""


class BuildStep(Request):
    """Export a model's training step from its artifact, and verify it."""

    op: Literal["build_step"] = "build_step"
    spec: ModelSpec
    folder: str
    """The artifact's, which must be finished."""
    out: str
    """The graph's file."""
    optimizer: Optimizer
    trainable: Trainable = ALL


class BuildPackage(Request):
    """Compile a case ahead, from its model's artifact."""

    op: Literal["build_package"] = "build_package"
    case: Case
    folder: str
    """The artifact's, which must be finished."""
    threads: int
    """That it will run with."""


class BuildGraph(Request):
    """Make the graph of a case's precision, from its model's artifact."""

    op: Literal["build_graph"] = "build_graph"
    case: Case
    folder: str
    """The artifact's, which must be finished."""


class Describe(Request):
    """Read an ONNX file."""

    op: Literal["describe"] = "describe"
    file: str


class Described(Frozen):
    """What it holds, whoever wrote it and where."""

    operators: dict[str, int]
    """Number of nodes by operator."""
    content_bytes: int
    """Its size without source paths, notes and the producer's version; with weights that stand in a second file."""


class FindKernels(Request):
    """Look for the kernels of an ONNX file's nodes in the CUDA provider's published table."""

    op: Literal["find_kernels"] = "find_kernels"
    file: str


class KernelsFound(Frozen):
    """What is missing."""

    without: dict[str, int]
    """Nodes that have none, by operator with its version and types."""


Purpose = Literal["run", "build"]
"""Of a process: to run a model in PyTorch, or to build an artifact."""


class Preload(Request):
    """Import PyTorch and what else the purpose needs, so that processes can be forked in which it is there."""

    op: Literal["preload"] = "preload"
    threads: int
    purpose: Purpose = "run"


class Fork(Request):
    """Become two processes: the new one connects to the socket at the address and answers requests from there."""

    op: Literal["fork"] = "fork"
    address: str
    log: str
    """Where what its libraries print goes to."""


class Forked(Frozen):
    """The new process."""

    pid: int


class Reap(Request):
    """Wait for a forked process to end, for so long at most."""

    op: Literal["reap"] = "reap"
    pid: int
    seconds: float


class Reaped(Frozen):
    """How it ended."""

    code: int | None
    """Exit code, negative for a signal; None if it has not ended."""


class Load(Request):
    """Import the libraries that a case's runtime and model need."""

    op: Literal["load"] = "load"
    case: Case
    threads: int


class Loaded(Frozen):
    """Imported."""

    import_s: float


class Open(Request):
    """Load the artifact into a session, call it once, and check its outputs."""

    op: Literal["open"] = "open"
    case: Case
    folder: str
    slowdown: float = 0.0
    """By how much each timed call is slowed down on purpose, as a share of its own time."""


class Opened(Frozen):
    """Ready to be timed, if every parity passed."""

    load_s: float
    first_call_s: float
    parity: list[Parity]
    takes_any_batch: bool = True


class Warm(Request):
    """Call until the times are steady, for so long at most."""

    op: Literal["warm"] = "warm"
    limit_s: float
    least_s: float = 0.0
    """Not steady before so many seconds."""
    hard_limit_s: float | None = None
    """End then, with fewer calls than a warm-up should have."""
    min_calls: int = 0
    """Not steady before so many calls."""


class Warmed(Frozen):
    """Warm: how it went, and how many calls a sample will be."""

    calls: int
    seconds: float
    converged: bool
    calls_per_sample: PositiveInt
    call_s: float
    """About how long one call takes."""


class Sample(Request):
    """Measure for about so many seconds, one sample at least."""

    op: Literal["sample"] = "sample"
    seconds: float


class Sampled(Frozen):
    """What one block took."""

    seconds: PhaseSeconds
    usage: Usage | None = None


class Close(Request):
    """Prove the outputs of the last timed call and tell what really ran."""

    op: Literal["close"] = "close"


class Closed(Frozen):
    """The end of a launch."""

    parity: list[Parity]
    memory: Memory
    ran: Ran
    faults: list[Reason]
    """Why the measurement is invalid, if it is."""


class Failure(Frozen):
    """The request could not be carried out."""

    failure: str
    is_user_error: bool
    """Whether the user's input is wrong (a model that raises), rather than a run that failed."""
    out_of_memory: bool = False

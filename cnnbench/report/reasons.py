"""Words for the codes of reasons and of interference."""

from collections.abc import Iterable, Mapping

from cnnbench.records.reason import Code, Interference, InterferenceKind, Reason

REASONS: Mapping[Code, str] = {
    "wide-interval": "the interval of the median is wider than 5 % to one side",
    "drift": "the times drifted from the first block to the last",
    "two-modes": "the times have two modes",
    "interference": "too few blocks were free of interference",
    "not-measured": "nothing was measured",
    "parity": "the outputs differ from the float64 reference",
    "counts": "the counters disagree",
    "denormals": "a layer's activations are denormal numbers",
    "not-finite": "the loss is not finite",
    "timers": "our clock and LoadGen's disagree by more than 1 %",
    "low-load": "at low load the server's median latency is not the single stream's within 5 %",
    "no-rate": "no tested rate keeps the bound of p99",
    "device": "it did not run on the requested device",
    "precision": "it did not run in the requested precision",
    "threads": "it did not run with the requested number of threads",
    "tf32": "TF32 was enabled although fp32 was requested",
    "layout": "it did not run in the requested memory layout",
    "allocator": "it did not run with the requested memory allocator",
    "graph-breaks": "the compiled graph has breaks",
    "traced": "a debugger or profiler was attached",
    "runtime": "the runtime reports a fault",
    "claimed": "the file claims another status",
    "crashed": "the process crashed",
    "hung": "the process hung",
    "out-of-memory": "out of memory",
    "model": "the model's own code failed",
    "error": "the run failed",
    "export-failed": "ONNX export failed",
    "not-exportable": "the training step cannot be exported",
    "no-graph": "the graph cannot be made in this precision",
    "no-device": "there is no such device",
    "no-runtime": "the runtime does not work here",
    "no-allocator": "the memory allocator is not available here",
    "no-loadgen": "LoadGen is not installed",
    "no-package": "the model's file is not here",
    "no-accuracy": "timed, but not evaluated",
    "unsupported": "the runtime does not support this combination",
    "other": "",
}
INTERFERENCE: Mapping[InterferenceKind, tuple[str, str]] = {
    "steal": ("CPU steal by the host", "steal time: {} of all CPU time"),
    "other-processes": ("other processes", "other processes: {} of all CPU time"),
    "throttled": ("CPU quota throttling", "CPU quota throttling for {} of the block"),
    "thermal": ("thermal throttling", "thermal throttling events: {}"),
    "swap": ("swapping", "pages swapped: {}"),
}
"""Without and with the figure."""


def reason_text(reason: Reason) -> str:
    """One reason in words, with its detail."""
    return ": ".join(part for part in (REASONS[reason.code], reason.detail) if part)


def reasons_text(reasons: Iterable[Reason]) -> str:
    """All of them in one line."""
    return "; ".join(map(reason_text, reasons))


def interference_text(found: Iterable[Interference]) -> str:
    """What went on beside a block, in one line."""
    return "; ".join(INTERFERENCE[each.kind][1].format(each.figure) for each in found)

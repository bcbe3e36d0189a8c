"""Words for the codes of reasons and of interference."""

from collections.abc import Iterable, Mapping

from cnnbench.records.reason import Code, Interference, InterferenceKind, Reason

REASONS: Mapping[Code, str] = {
    "wide-interval": "the interval of the median is wider than 5 % to one side",
    "drift": "the times drifted from the first block to the last",
    "two-modes": "the times have two modes",
    "interference": "too few blocks were free of interference",
    "not-measured": "nothing was measured",
    "parity": "the outputs are not the reference's",
    "counts": "the counters disagree",
    "denormals": "a layer's activations are denormal numbers",
    "not-finite": "the loss is not finite",
    "device": "another device ran than was asked",
    "precision": "another precision ran than was asked",
    "threads": "another number of threads ran than was asked",
    "tf32": "TF32 was on where fp32 was asked",
    "layout": "another memory layout ran than was asked",
    "allocator": "another memory allocator ran than was asked",
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
    "no-device": "there is no such device",
    "no-runtime": "the runtime does not work here",
    "no-allocator": "the memory allocator cannot be had here",
    "unsupported": "no machine can run this",
    "other": "",
}
INTERFERENCE: Mapping[InterferenceKind, tuple[str, str]] = {
    "steal": ("the host took the CPUs", "the host took {} of the CPUs"),
    "other-processes": ("other processes used the CPUs", "other processes used {} of the CPUs"),
    "throttled": ("the CPU quota was spent", "threads were paused for {} of the block, because the quota was spent"),
    "thermal": ("cores slowed down to cool", "cores slowed down to cool, times: {}"),
    "swap": ("memory was swapped", "pages swapped: {}"),
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

"""A model counted and traced, by what it is given as: a module, or an ONNX file, for which no torch is imported."""

import pkgutil

from cnnbench.records.messages import Count, Trace, Traced
from cnnbench.records.record import CounterResults

MODULE = {Count: "cnnbench.worker.counters.collect:count", Trace: "cnnbench.worker.counters.trace:trace_model"}
ONNX_FILE = {Count: "cnnbench.worker.onnx_artifact:count", Trace: "cnnbench.worker.onnx_artifact:trace_file"}
"""By type of request, the function that answers it."""


def count(request: Count) -> CounterResults:
    """Every counter of a model. Raises ModelError."""
    return CounterResults.model_validate(_answered(request))


def trace_model(request: Trace) -> Traced:
    """The layers of a model, as one image passes them. Raises ModelError."""
    return Traced.model_validate(_answered(request))


def _answered(request: Count | Trace) -> object:
    table = ONNX_FILE if request.spec.is_onnx_file else MODULE
    answer: object = pkgutil.resolve_name(table[type(request)])(request)
    return answer

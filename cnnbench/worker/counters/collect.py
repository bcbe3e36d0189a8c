"""Independent counts of a model's parameters and MACs, layer by layer, by name."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from cnnbench.networks import registry
from cnnbench.records.messages import Count
from cnnbench.records.record import CounterResults, Counts, Published
from cnnbench.suite.case import ModelSpec
from cnnbench.worker import models
from cnnbench.worker.counters import module as counters
from cnnbench.worker.counters import onnx as graph
from cnnbench.worker.detection import up_to_heads
from cnnbench.worker.export import failure, inference
from cnnbench.worker.signature import Inputs, shapes_of, zeros

COUNTERS: dict[str, Callable[..., Counts]] = {
    "module": lambda module, *_: counters.parameters(module),
    "dispatch": counters.dispatched,
    "fvcore": counters.traced_by_fvcore,
    "backward": counters.backward,
}


def count(request: Count) -> CounterResults:
    """Every counter of a model, with a graph that is exported for this alone."""
    module, inputs = models.build(request.spec)
    models.try_out(module, inputs, request.spec)
    module = up_to_heads(module)
    found = collect(module, inputs, request.spec)
    given = zeros(inputs)
    return collect_graph(found, module, given, lambda: inference.trace(module, *given, dynamic_batch=False))


def collect(module: nn.Module, inputs: Inputs, spec: ModelSpec) -> CounterResults:
    """Every counter of the module on one image, in inference mode; one that fails has its reason.

    A detection network is counted up to its heads: how many regions are looked at behind them depends on the image.
    """
    module, given = up_to_heads(module).eval(), zeros(inputs)
    known = closed_form(spec, shapes_of(inputs)[0]) if registry.find(spec.model) else None
    found = CounterResults(closed_form=known, counted={}, published=published(spec), failed={})
    for name, counter in COUNTERS.items():
        found = _with(found, name, module, given, partial(counter, module, *given))
    return found


def collect_graph(
    found: CounterResults, module: nn.Module, inputs: Sequence[Tensor], export: Callable[[], torch.onnx.ONNXProgram]
) -> CounterResults:
    """The same with the count of the graph that is exported of the module, before it is optimised."""
    first = {parameter: name for name, parameter in module.named_parameters()}
    parameters = {name: first[each] for name, each in module.named_parameters(remove_duplicate=False)}
    return _with(found, "onnx", module, inputs, lambda: graph.count(export().model, parameters))


def _with(
    found: CounterResults, name: str, module: nn.Module, inputs: Sequence[Tensor], counter: Callable[[], Counts]
) -> CounterResults:
    try:
        return found.model_copy(update={"counted": {**found.counted, name: counter()}})
    except Exception as error:
        reason = failure.reason(error, module, inputs, "it cannot count the model")
        return found.model_copy(update={"failed": {**found.failed, name: reason}})


def closed_form(spec: ModelSpec, image: tuple[int, ...]) -> Counts:
    """What the formulas say."""
    network = registry.get(spec.model).network(image[1:], spec.classes)
    inference_macs = {layer.name: layer.macs for layer in network.inference}
    counts = {layer.name: (layer.params, inference_macs.get(layer.name, 0)) for layer in network.layers}
    return {name: count for name, count in counts.items() if any(count)}


def published(spec: ModelSpec) -> Published | None:
    """torchvision's figures for its default weights; None for a model that is not torchvision's.

    None for detection networks, whose figures depend on how many regions their heads propose.
    """
    if registry.is_detection(spec.model):
        return None
    architecture = registry.find(spec.model)
    if not (spec.model.startswith("torchvision/") or (architecture and architecture.from_torchvision)):
        return None
    from torchvision.models import get_model_weights

    weights = get_model_weights(spec.model.removeprefix("torchvision/")).DEFAULT
    metrics, sizes = weights.meta.get("_metrics", {}), weights.transforms.keywords
    return Published(
        weights=str(weights),
        params=weights.meta["num_params"],
        giga_macs=weights.meta.get("_ops"),
        image_size=sizes.get("crop_size", sizes.get("resize_size")),
        top1_percent=metrics.get("ImageNet-1K", {}).get("acc@1"),
        miou_percent=metrics.get("COCO-val2017-VOC-labels", {}).get("miou"),
    )

"""Independent counts of a module's parameters and MACs, layer by layer, by name."""

import logging
from collections.abc import Mapping

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cnnbench.networks import registry
from cnnbench.networks.units import FLOP_PER_MAC
from cnnbench.records.record import CounterResults, Counts, Published
from cnnbench.suite.case import ModelSpec
from cnnbench.worker.counters import onnx as onnx_graph
from cnnbench.worker.counters.backward import backward
from cnnbench.worker.export import inference

MAC_OPERATORS = ("conv", "linear", "addmm", "matmul", "bmm", "einsum")
"""fvcore's names of the operators that multiply and accumulate; it also counts normalisation, which is none."""


def collect(module: nn.Module, image: tuple[int, ...], spec: ModelSpec) -> CounterResults:
    """Every witness on one image, in inference mode."""
    module = module.eval()
    x = torch.zeros(1, *image)
    counted: dict[str, Counts] = {"module": own_parameters(module)}
    failed: dict[str, str] = {}
    for name, counter in (("dispatch", dispatched), ("fvcore", traced), ("backward", backward)):
        try:
            counted[name] = counter(module, x)
        except Exception as error:
            failed[name] = _why(error)
    architecture = registry.find(spec.model)
    return CounterResults(
        closed_form=closed_form(spec, image) if architecture else None,
        counted=counted,
        published=published(spec),
        failed=failed,
    )


def collect_graph(collected: CounterResults, program: torch.onnx.ONNXProgram) -> CounterResults:
    """The same with the exported graph's word, before it is optimised."""
    try:
        return collected.model_copy(
            update={"counted": {**collected.counted, "onnx": onnx_graph.counted(program.model)}}
        )
    except Exception as error:
        return collected.model_copy(update={"failed": {**collected.failed, "onnx": _why(error)}})


def collect_export(collected: CounterResults, module: nn.Module, image: tuple[int, ...]) -> CounterResults:
    """The same with the word of a graph that is exported for this alone."""
    try:
        program = inference.trace(module, torch.zeros(1, *image), dynamic_batch=False)
    except Exception as error:
        return collected.model_copy(update={"failed": {**collected.failed, "onnx": _why(error)}})
    return collect_graph(collected, program)


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def closed_form(spec: ModelSpec, image: tuple[int, ...]) -> Counts:
    """What the formulas say."""
    network = registry.get(spec.model).network(image[1:], spec.classes)
    inference_macs = {layer.name: layer.macs for layer in network.inference}
    counts = {layer.name: (layer.params, inference_macs.get(layer.name, 0)) for layer in network.layers}
    return {name: count for name, count in counts.items() if any(count)}


def own_parameters(module: nn.Module) -> Counts:
    """Parameters by the submodule that holds them; a shared parameter counts where it is first found."""
    counts: dict[str, int] = {}
    for name, parameter in module.named_parameters():
        owner = name.rpartition(".")[0]
        counts[owner] = counts.get(owner, 0) + parameter.numel()
    return {name: (params, 0) for name, params in counts.items()}


def dispatched(module: nn.Module, x: torch.Tensor) -> Counts:
    """MACs as torch's dispatcher sees them: every convolution and matrix product that is executed."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x)
    return _by_module(module, counter)


def _by_module(module: nn.Module, counter: FlopCounterMode) -> Counts:
    """What torch's counter has seen, by the module that each count belongs to itself."""
    root = type(module).__name__
    inclusive = {
        name.removeprefix(root).removeprefix("."): sum(flops.values())
        for name, flops in counter.get_flop_counts().items()
        if name == root or name.startswith(root + ".")
    }
    return {name: (0, flops // FLOP_PER_MAC) for name, flops in exclusive(inclusive).items()}


def traced(module: nn.Module, x: torch.Tensor) -> Counts:
    """MACs as fvcore finds them in a trace; attention's, among others, it does not know."""
    from fvcore.nn import FlopCountAnalysis

    logging.getLogger("fvcore").setLevel(logging.ERROR)
    analysis = FlopCountAnalysis(module, x)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    inclusive = {
        name: sum(int(count) for operator, count in operators.items() if operator in MAC_OPERATORS)
        for name, operators in analysis.by_module_and_operator().items()
    }
    return {name: (0, macs) for name, macs in exclusive(inclusive).items()}


def exclusive(inclusive: Mapping[str, int]) -> dict[str, int]:
    """What each module counts itself, from counts that include its children's; zeros are left out."""
    own = dict(inclusive)
    for name, count in inclusive.items():
        if name:
            parent = name.rpartition(".")[0]
            while parent not in inclusive:
                parent = parent.rpartition(".")[0]
            own[parent] -= count
    return {name: count for name, count in own.items() if count}


def published(spec: ModelSpec) -> Published | None:
    """torchvision's figures for its default weights; None for a model that is not torchvision's."""
    architecture = registry.find(spec.model)
    if not (spec.model.startswith("torchvision/") or (architecture and architecture.from_torchvision)):
        return None
    from torchvision.models import get_model_weights

    weights = get_model_weights(spec.model.removeprefix("torchvision/")).DEFAULT
    metrics = weights.meta.get("_metrics", {}).get("ImageNet-1K", {})
    return Published(
        weights=str(weights),
        params=weights.meta["num_params"],
        giga_macs=weights.meta.get("_ops"),
        image_size=weights.transforms.keywords.get("crop_size"),
        top1_percent=metrics.get("acc@1"),
    )

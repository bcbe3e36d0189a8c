"""What a module is made of and does, counted by torch and by fvcore: parameters and MACs, by submodule.

Each counter of MACs takes one image (1, C, H, W), or a tensor for each input.
"""

import contextlib
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from cnnbench.errors import ModelError
from cnnbench.networks.units import FLOP_PER_MAC
from cnnbench.records.record import Counts
from cnnbench.worker.copies import copied
from cnnbench.worker.counters.einsum import einsum_macs
from cnnbench.worker.hooks import hooked
from cnnbench.worker.signature import flat

Formula = Callable[..., int]
MULTIPLY = {"_convolution", "_convolution_mode", "lstm", "gru", "rnn_tanh", "rnn_relu", "bilinear", "_trilinear"}
MULTIPLY |= {"addmv", "addbmm", "conv_tbc", "cdist", "_cdist_forward", "mkldnn_rnn_layer"}
MULTIPLY |= {"_thnn_fused_lstm_cell", "_thnn_fused_gru_cell", "convolution_overrideable", "_weight_int8pack_mm"}
MULTIPLY |= {"_native_multi_head_attention", "_transformer_encoder_layer_fwd"}
"""Operators of aten that multiply and accumulate, and that a counter may have no formula for."""
ALGEBRA = re.compile(r"_?fft_(i?[rh]?fft[2n]?|[rc]2[rc])|_?linalg_(?!(vector_)?norm$|cross$|diagonal$).*")
"""Names of Fourier transforms, inverses, decompositions and their like, which do so too."""
KNOWN_FREE = {"torchvision::nms", "torchvision::roi_", "torchvision::_roi_", "prim::", "profiler::", "onnx::"}
"""Operators and whole libraries beside aten that do not multiply and accumulate."""
FVCORE_MACS = ("conv", "linear", "addmm", "matmul", "bmm", "einsum", "mv", "tensordot", "attention")
"""fvcore's names of the operators that multiply and accumulate; it also counts normalisation, which is none."""
VECTORS = ("aten::mv", "aten::dot", "aten::vdot")
"""Products with a vector."""
BACKWARD_BATCH = 2
"""Batch normalisation of a single value per channel cannot be trained."""


def parameters(module: nn.Module) -> Counts:
    """Parameters by the submodule that holds them; a shared parameter counts where it is first found."""
    counts: Counter[str] = Counter()
    for name, parameter in module.named_parameters():
        counts[name.rpartition(".")[0]] += parameter.numel()
    return {name: (params, 0) for name, params in counts.items()}


def dispatched(module: nn.Module, *inputs: torch.Tensor) -> Counts:
    """MACs as torch's dispatcher sees them: every convolution and matrix product that is executed.

    Raises ModelError for an operator that multiplies and accumulates, or may do so, and has no formula.
    """
    formulas = _formulas()
    with (
        attention_as_products(),
        _Seen() as seen,
        FlopCounterMode(display=False, custom_mapping=formulas) as counter,
        torch.no_grad(),
    ):
        module(*inputs)
    _check_counted(name for name, packet in seen.operators.items() if packet not in {**flop_registry, **formulas})
    return by_module(module, counter)


@contextlib.contextmanager
def attention_as_products() -> Iterator[None]:
    """Have attention run as the products that it is, not as one operator."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _formulas() -> dict[Any, Formula]:
    """FLOP of operators that torch's counter does not know, where they are there."""
    found: dict[Any, Formula] = dict.fromkeys((torch.ops.aten.mv, torch.ops.aten.dot, torch.ops.aten.vdot), _mv_flops)
    if hasattr(torch.ops.torchvision, "deform_conv2d"):
        found[torch.ops.torchvision.deform_conv2d] = _deformable_flops
    return found


def _mv_flops(matrix: Any, *_: Any, **__: Any) -> int:
    """Of a matrix, or a vector, times a vector: one MAC for each of its values."""
    macs: int = math.prod(matrix)
    return FLOP_PER_MAC * macs


def _deformable_flops(x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Those of a convolution (Dai et al. 2017, equation 2); sampling comes on top and is no MAC."""
    macs: int = math.prod(out_shape) * math.prod(weight[1:])
    return FLOP_PER_MAC * macs


def _check_counted(names: Iterable[str]) -> None:
    """Raises ModelError for operators without a formula that do what is counted."""
    missing = [name for name in dict.fromkeys(names) if _multiplies(name)]
    if missing:
        raise ModelError(f"no formula for {', '.join(missing)}, so the total would lack what it computes")


def _multiplies(name: str) -> bool:
    """Whether an operator such as `aten::mv` multiplies and accumulates; one of another library may."""
    library, _, operator = name.rpartition("::")
    if library in ("aten", ""):
        return operator.rstrip("_") in MULTIPLY or operator in MULTIPLY or bool(ALGEBRA.fullmatch(operator))
    return not any(name.startswith(known) for known in KNOWN_FREE)


class _Seen(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The operators that are dispatched, by name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: dict[str, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators[func._schema.name] = func._overloadpacket
        return func(*args, **(kwargs or {}))


def by_module(module: nn.Module, counter: FlopCounterMode) -> Counts:
    """What torch's counter has seen, by the module that each count belongs to itself."""
    root = type(module).__name__
    inclusive = {
        name.removeprefix(root).removeprefix("."): sum(flops.values())
        for name, flops in counter.get_flop_counts().items()
        if name == root or name.startswith(root + ".")
    }
    return {name: (0, flops // FLOP_PER_MAC) for name, flops in exclusive(inclusive).items()}


def traced_by_fvcore(module: nn.Module, *inputs: torch.Tensor) -> Counts:
    """MACs as fvcore finds them in a trace.

    It has no formula for a convolution padded to the same size, and one for einsum that is wrong but for two patterns.
    Raises ModelError for an operator that multiplies and accumulates, or may do so, and has no formula.
    """
    from fvcore.nn import FlopCountAnalysis

    logging.getLogger("fvcore").setLevel(logging.ERROR)
    analysis = FlopCountAnalysis(module, inputs)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.set_op_handle("aten::_convolution_mode", _traced_convolution)  # padding="same"
    analysis.set_op_handle("torchvision::deform_conv2d", _traced_convolution)
    analysis.set_op_handle("aten::einsum", _traced_einsum)
    analysis.set_op_handle("aten::tensordot", _traced_tensordot)
    analysis.set_op_handle("aten::scaled_dot_product_attention", _traced_attention)
    for name in VECTORS:
        analysis.set_op_handle(name, _traced_mv)
    with attention_as_products(), _Kept(module):
        operators_by_module = analysis.by_module_and_operator()
    _check_counted(analysis.unsupported_ops())
    inclusive = {
        name: sum(int(macs) for operator, macs in operators.items() if operator in FVCORE_MACS)
        for name, operators in operators_by_module.items()
    }
    return {name: (0, macs) for name, macs in exclusive(inclusive).items()}


class _Kept(TorchFunctionMode):
    """Has the module put out all that it computes, while this lasts.

    A trace leaves out what no output depends on, such as logits that only decide whether to go on.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.computed: list[torch.Tensor] = []
        self._hook = module.register_forward_hook(lambda _, __, output: (flat(output), self.computed))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.computed += [each for each in flat(found) if each.is_floating_point()]
        return found

    def __exit__(self, *failure: Any) -> None:
        self._hook.remove()
        super().__exit__(*failure)  # type: ignore[no-untyped-call]


def _traced_convolution(inputs: list[Any], outputs: list[Any]) -> Any:
    _, weight = (value.type().sizes() for value in inputs[:2])
    return Counter({"conv": math.prod(outputs[0].type().sizes()) * math.prod(weight[1:])})


def _traced_mv(inputs: list[Any], outputs: list[Any]) -> Any:
    return Counter({"mv": math.prod(inputs[0].type().sizes())})


def _traced_tensordot(inputs: list[Any], outputs: list[Any]) -> Any:
    shape, summed_over = inputs[0].type().sizes(), [axis.toIValue() for axis in inputs[2].node().inputs()]
    return Counter({"tensordot": math.prod(outputs[0].type().sizes()) * math.prod(shape[axis] for axis in summed_over)})


def _traced_attention(inputs: list[Any], outputs: list[Any]) -> Any:
    """Two products: queries (..., L, E) by keys (..., S, E), and that by values (..., S, V)."""
    queries, keys, values = (value.type().sizes() for value in inputs[:3])
    return Counter({"attention": math.prod(queries[:-1]) * keys[-2] * (keys[-1] + values[-1])})


def _traced_einsum(inputs: list[Any], outputs: list[Any]) -> Any:
    shapes = [tuple(value.type().sizes()) for value in inputs[1].node().inputs()]
    return Counter({"einsum": einsum_macs(inputs[0].toIValue(), shapes)})


def exclusive(inclusive: Mapping[str, int]) -> dict[str, int]:
    """What each module counts itself, from counts that include its children's; zeros are left out."""
    own = dict(inclusive)
    for name, value in inclusive.items():
        if name:
            parent = name.rpartition(".")[0]
            while parent not in inclusive:
                parent = parent.rpartition(".")[0]
            own[parent] -= value
    return {name: value for name, value in own.items() if value}


def backward(module: nn.Module, *inputs: torch.Tensor) -> Counts:
    """MACs of the backward pass; on shapes alone, nothing is computed, unless the forward pass looks at values.

    By torch's own formulas, but for that of a convolution, which leaves `groups` out of the weight gradient (2.14).
    """
    with attention_as_products():
        try:
            return _backward(module, inputs, torch.device("meta"))
        except (RuntimeError, NotImplementedError):  # it reads a value, or has tensors that are not the module's
            return _backward(module, inputs, torch.device("cpu"))


def _backward(module: nn.Module, inputs: Sequence[torch.Tensor], device: torch.device) -> Counts:
    module = copied(module).to(device).train()
    images = tuple(torch.zeros(BACKWARD_BATCH, *x.shape[1:], device=device) for x in inputs)
    starts: list[int] = []
    ranges: list[tuple[range, str]] = []
    """The numbers that autograd gave the nodes of each module's forward pass; inner modules come first."""
    with hooked(
        module,
        lambda *_: starts.append(_next_node()),
        lambda name, *_: ranges.append((range(starts.pop(), _next_node()), name)),
    ):
        output = module(*images)
    with _FlopsByNode() as flops:
        total = torch.stack([head.sum() for head in flat(output)]).sum()
        if total.requires_grad:
            total.backward()  # type: ignore[no-untyped-call]
    _check_counted(flops.uncounted)
    macs: Counter[str] = Counter()
    for node, flop in flops.by_node.items():
        macs[next(name for nodes, name in ranges if node in nodes)] += flop
    return {name: (0, flop // FLOP_PER_MAC // BACKWARD_BATCH) for name, flop in macs.items()}


def _next_node() -> int:
    return int(torch._C._autograd._get_sequence_nr())


def convolution_backward_flops(
    gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, *settings: Any, out_val: Any = None
) -> int:
    """As many MACs for each gradient as forwards: each value of the output, or of a transposed convolution's input,
    meets the weights (K, C / g, ...) of one filter."""
    *_, transposed, _, _, mask = settings
    places = x if transposed else gradient
    macs: int = sum(mask[:2]) * math.prod(places.shape) * math.prod(weight.shape[1:])
    return FLOP_PER_MAC * macs


def _deformable_backward_flops(
    gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, *_: Any, **__: Any
) -> int:
    return 2 * FLOP_PER_MAC * math.prod(gradient.shape) * math.prod(weight.shape[1:])


def _backward_formulas() -> dict[Any, Formula]:
    found: dict[Any, Formula] = {**_formulas(), torch.ops.aten.convolution_backward: convolution_backward_flops}
    if hasattr(torch.ops.torchvision, "_deform_conv2d_backward"):
        found[torch.ops.torchvision._deform_conv2d_backward] = _deformable_backward_flops
    return found


class _FlopsByNode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Torch's flop formulas applied to what the backward pass executes, by autograd node."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.by_node: Counter[int] = Counter()
        self.uncounted: list[str] = []
        self._formulas = {**flop_registry, **_backward_formulas()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = self._formulas.get(func._overloadpacket)
        if formula is None:
            self.uncounted.append(func._schema.name)
        if formula is not None:
            node = torch._C._current_autograd_node()._sequence_nr()
            self.by_node[node] += formula(*args, **(kwargs or {}), out_val=out)
        return out

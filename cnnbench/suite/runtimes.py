"""The runtimes by name: what executes a model, and what each can and cannot do. Nothing of them is imported here."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any, Literal

from cnnbench.errors import InputError, unknown
from cnnbench.networks import registry
from cnnbench.networks.layers import Activation, Add, BatchNorm, Op

GROUP = "cnnbench.runtimes"
"""The entry points under which plugins offer runtimes: a name, and a class derived from
`cnnbench.worker.runtimes.base.Runtime`."""
TRAITS_GROUP = "cnnbench.runtime_traits"
"""Under the same name a plugin may offer a `RuntimeKind`, in a module that imports no engine: this process loads it."""

TARGET = "CNNBENCH_TARGET"
"""The variable that tells workers the address of a server over HTTP."""
OVER_HTTP = "http"
"""The runtime that asks it."""

REFERENCE = "eager"
"""The runtime that ratios are taken to, and whose profile names a model's modules."""

TORCH_PRECISIONS = ("fp32", "amp-fp16", "amp-bf16", "fp16", "bf16")
INT8 = ("int8", "int8-7bit", "int8-signed")
ALL_LAYOUTS = ("nchw", "channels_last")
WORKLOADS = ("inference", "training")
TRAINED = ("fp32", "amp-fp16", "amp-bf16")
"""The precisions that training steps have."""
SIGNED = "int8-signed"
PT2E = "int8-pt2e"
"""PyTorch's own int8, another recipe than that of the graphs."""
QUANTISER = "torchao.quantization.pt2e.quantizer.x86_inductor_quantizer"
"""Its module; importing it teaches torch.compile the patterns that int8 kernels are put in for."""
FREEZING = "freezing"
FROZEN = "weights as constants, so that they are folded and packed when it is compiled"
CUDA_GRAPH = "cuda-graph"
ARM = ("aarch64", "arm64")
FOR_CUDA = {"tensorrt": "TensorRT", CUDA_GRAPH: "a CUDA graph"}
"""Variants of ONNX Runtime that are for inference on CUDA devices alone."""
Library = Literal["torch", "onnxruntime"]
"""Whose arithmetic and launch overhead are measured as peaks."""
FUSED: tuple[type[Op], ...] = (BatchNorm, Activation, Add)


@dataclass(frozen=True, kw_only=True)
class RuntimeKind:
    """A way to execute an artifact, and what can be asked of it. A variant follows its name: `ort:basic`."""

    name: str
    what: str
    display_name: str = ""
    """In prose; empty for its name."""
    libraries: tuple[str, ...] = ()
    """The packages that it is, any of them."""
    install: str = ""
    """What to type where they are not installed."""
    classes: Mapping[str, str] = field(default_factory=dict)
    """By workload, the class that executes it, as `module:attribute`; only a worker imports it."""
    ranked: str = ""
    """The class that trains on several ranks, as `module:attribute`; empty where there is none."""
    imports: tuple[str, ...] = ()
    """Modules that a worker imports before it loads a model; the time that takes is recorded."""
    variants: Mapping[str, str] = field(default_factory=dict)
    """By name, what each is; without one, the runtime's own default."""
    precisions: tuple[str, ...] = ("fp32",)
    layouts: tuple[str, ...] = ("nchw",)
    must_be_tried: bool = False
    """Whether it may not work even on a CPU, so that it is tried before a run."""
    is_plugin: bool = False
    runs_exported_graph: bool = False
    """Whether it executes the artifact's ONNX graph rather than its module."""
    compiled_ahead: bool = False
    """Whether what it executes is compiled for the case before the run, into a package beside the artifact."""
    call_library: Library | None = None
    """The library whose measured launch overhead each layer pays; None where that is not known."""
    fuses: tuple[type[Op], ...] = FUSED
    """Layers that may become part of the convolution before them: they then move nothing and are not called."""
    profiler: str = ""
    """The function that times each layer, as `module:attribute`, called in a worker with the request (`Profile`), the
    artifact's facts, the batch and the number of threads; gives `Profiled`. Empty where there is none."""

    @property
    def workloads(self) -> tuple[str, ...]:
        """What it can be asked to execute."""
        return tuple(self.classes)

    @property
    def runs_in_torch(self) -> bool:
        """Whether its worker imports PyTorch, so that it can be forked from a process that has."""
        return "torch" in self.imports


def _built_in(name: str, what: str, classes: Mapping[str, str], **traits: Any) -> RuntimeKind:
    """`classes` by workload, in the modules of `cnnbench.worker.runtimes`."""
    paths = {workload: f"cnnbench.worker.runtimes.{each}" for workload, each in classes.items()}
    return RuntimeKind(name=name, what=what, classes=paths, **traits)


_torch = partial(_built_in, libraries=("torch",), imports=("torch",), precisions=TORCH_PRECISIONS, layouts=ALL_LAYOUTS)

BUILT_IN = (
    _torch(
        "eager",
        "PyTorch, one operator after the other",
        {"inference": "eager:EagerInference", "training": "eager:EagerTraining"},
        display_name="PyTorch",
        ranked="cnnbench.worker.runtimes.ranked:RankedTraining",
        call_library="torch",
        fuses=(),
        profiler="cnnbench.worker.profilers.eager:profile",
    ),
    _torch(
        "folded",
        "PyTorch eager, each batch normalisation folded into the convolution before it",
        {"inference": "folded:Folded"},
        call_library="torch",
        fuses=(BatchNorm,),
    ),
    _torch(
        "compile",
        "torch.compile",
        {"inference": "compiled:CompiledInference", "training": "compiled:CompiledTraining"},
        imports=("torch", "torch._dynamo"),
        variants={
            "reduce-overhead": "its mode of that name: CUDA graphs",
            "max-autotune": "its mode of that name: searches kernels",
            FREEZING: FROZEN,
        },
        precisions=(*TORCH_PRECISIONS, PT2E),
        must_be_tried=True,
    ),
    _built_in(
        "aot",
        "AOTInductor: torch.compile's code, compiled ahead into a package that is loaded without Python's tracing",
        {"inference": "aot:Aot"},
        display_name="AOTInductor",
        libraries=("torch",),
        imports=("torch",),
        variants={FREEZING: FROZEN},
        must_be_tried=True,
        compiled_ahead=True,
    ),
    _built_in(
        "ort",
        "ONNX Runtime on the exported graph",
        {"inference": "ort:OrtInference", "training": "ort_training:OrtTraining"},
        display_name="ONNX Runtime",
        libraries=("onnxruntime-gpu", "onnxruntime"),
        imports=("onnxruntime",),
        variants={
            "disabled": "no graph optimisation",
            "basic": "constant folding and redundant nodes",
            "extended": "basic, and fusions",
            "tensorrt": "the TensorRT provider",
            CUDA_GRAPH: "the CUDA provider, the launches of a whole call captured once as a CUDA graph and replayed",
        },
        precisions=("fp32", "fp16", *INT8),
        runs_exported_graph=True,
        call_library="onnxruntime",
        profiler="cnnbench.worker.profilers.ort:profile",
    ),
    _built_in(
        "openvino",
        "OpenVINO on the exported graph, for the case's own batch",
        {"inference": "openvino:OpenVino"},
        display_name="OpenVINO",
        libraries=("openvino",),
        install="pip install 'cnnbench[openvino]'",
        imports=("openvino",),
        variants={
            "latency": "its hint of that name, which is the default",
            "throughput": "its hint of that name: the batch is divided among requests that run at once",
        },
        precisions=("fp32", "fp16", "bf16", *INT8),
        must_be_tried=True,
        runs_exported_graph=True,
        profiler="cnnbench.worker.profilers.openvino:profile",
    ),
    _built_in(
        OVER_HTTP,
        "a server over HTTP by the open inference protocol v2; `cnnbench run --target` has its address",
        {"inference": "http:Http"},
        display_name="a server over HTTP",
        must_be_tried=True,
        runs_exported_graph=True,
    ),
)


@cache
def runtimes() -> Mapping[str, RuntimeKind]:
    """All by name: the built-in ones, then those of plugins. Raises InputError for traits that are none."""
    kinds = {kind.name: kind for kind in BUILT_IN}
    traits = {entry.name: entry for entry in entry_points(group=TRAITS_GROUP)}
    for entry in entry_points(group=GROUP):
        kinds.setdefault(entry.name, _plugin(entry, traits.get(entry.name)))
    return MappingProxyType(kinds)


def _plugin(entry: EntryPoint, traits: EntryPoint | None) -> RuntimeKind:
    package = entry.dist.name if entry.dist else entry.value
    kind: object = traits.load() if traits else None
    if kind is None:
        kind = RuntimeKind(
            name=entry.name,
            what=f"of {package}",
            classes=dict.fromkeys(WORKLOADS, entry.value),
            precisions=TORCH_PRECISIONS,
            layouts=ALL_LAYOUTS,
            must_be_tried=True,
        )
    if not isinstance(kind, RuntimeKind) or kind.name != entry.name:
        raise InputError(
            f"package {package}: entry point {entry.name!r} of {TRAITS_GROUP}: expected a RuntimeKind named "
            f"{entry.name!r}; got {kind!r}"
        )
    return replace(
        kind,
        libraries=kind.libraries or (package,),
        classes=kind.classes or dict.fromkeys(WORKLOADS, entry.value),
        imports=(*kind.imports, entry.module),
        is_plugin=True,
    )


def runtime_kind(runtime: str) -> RuntimeKind:
    """The kind of a runtime with or without a variant."""
    return runtimes()[split(runtime)[0]]


def profiled_runtimes() -> tuple[str, ...]:
    """The names of runtimes that can time layers; the reference first."""
    return tuple(kind.name for kind in runtimes().values() if kind.profiler)


def split(runtime: str) -> tuple[str, str]:
    """Name and variant, empty if it has none: `ort:basic` is ("ort", "basic")."""
    name, _, variant = runtime.partition(":")
    return name, variant


def check_name(runtime: str) -> str:
    """The name itself, if there is such a runtime and variant. Raises ValueError, with the nearest name."""
    name, variant = split(runtime)
    kinds = runtimes()
    if name not in kinds:
        raise ValueError(unknown("runtime", name, kinds))
    if ":" in runtime and not kinds[name].is_plugin and variant not in kinds[name].variants:
        if not kinds[name].variants:
            raise ValueError(f"expected {name!r} without a variant; got {runtime!r}")
        raise ValueError(unknown(f"{name} variant", variant, kinds[name].variants))
    return runtime


def _no_kernels(variant: str, device: str, precision: str) -> str | None:
    """Why ONNX Runtime's provider would run a graph of this precision in float32, by its tables of kernels."""
    if precision == "fp16" and device == "cpu" and platform.machine() not in ARM:
        return "ONNX Runtime's CPU provider has no half-precision convolution on this processor: it would run float32"
    if precision in INT8 and device != "cpu" and variant != "tensorrt":
        return f"ONNX Runtime's CUDA provider has no int8 convolution: it would run float32; TensorRT runs {SIGNED}"
    if precision in INT8 and variant == "tensorrt" and precision != SIGNED:
        return f"TensorRT takes zero points of 0 alone; it runs {SIGNED}"
    return None


def cannot(
    runtime: str, workload: str, device: str, precision: str, layout: str, *, model: str = "", ranks: int = 1
) -> str | None:
    """Why the runtime does not support this combination, or None if it does."""
    name, variant = split(runtime)
    kind = runtime_kind(runtime)
    if workload == "serving":  # what is served is inference
        workload = "inference"
    if registry.is_onnx_file(model) and workload == "training":
        return "an ONNX file is a network, not a training step"
    if registry.is_program_file(model) and workload == "training":
        return "an exported program is a network in inference; the module that it was made of can be trained"
    if registry.is_detection(model) and workload == "training":
        return "a detection network is trained on boxes, which cnnbench has none of"
    if registry.has_post_processing(model) and name != REFERENCE:
        return f"what a detection network does behind its heads depends on values; {name} runs {model}{registry.HEADS}"
    if registry.is_onnx_file(model) and not kind.runs_exported_graph:
        return f"{name} does not run ONNX files"
    if workload not in kind.workloads:
        return f"{name} is for {' and '.join(kind.workloads)} alone"
    if ranks > 1 and not kind.ranked:
        return f"{name} trains on one rank alone"
    if precision not in kind.precisions:
        return f"{name} runs {', '.join(kind.precisions)} alone"
    if layout not in kind.layouts:
        return f"{name} has the layout {' and '.join(kind.layouts)} alone"
    if precision == "amp-fp16" and device == "cpu":
        return "automatic mixed precision on a CPU is amp-bf16"
    if workload == "training" and precision not in TRAINED:
        return f"{precision} is for inference alone; training has {', '.join(TRAINED)}"
    if name == "compile" and variant == FREEZING and workload == "training":
        return "weights that are trained are no constants; compile:freezing is for inference alone"
    if precision == PT2E and device != "cpu":
        return f"the kernels that {PT2E} is quantised for are those of x86 CPUs"
    if precision == PT2E and variant != FREEZING:
        return f"PyTorch has int8 kernels for weights that are constants alone; compile:freezing runs {PT2E}"
    if name == "ort" and (why := _no_kernels(variant, device, precision)):
        return why
    if name == "ort" and (what := FOR_CUDA.get(variant)):
        if workload == "training":
            return f"{what} is for inference alone"
        if device == "cpu":
            return f"{what} is for CUDA devices"
    return None

"""The runtimes by name: what executes a model, and what each can and cannot do. Nothing of them is imported here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType

from cnnbench.errors import unknown

GROUP = "cnnbench.runtimes"
"""The entry points under which other packages offer runtimes: a name, and a class derived from
`cnnbench.worker.runtimes.base.Runtime`."""

REFERENCE = "eager"
"""The runtime that ratios are taken to."""

FLOAT32 = ("fp32",)
ALL_PRECISIONS = ("fp32", "bf16", "fp16")
ONLY_NCHW = ("nchw",)
ALL_LAYOUTS = ("nchw", "channels_last")


@dataclass(frozen=True)
class RuntimeKind:
    """A way to execute an artifact, and what can be asked of it. A variant follows its name: `ort:basic`."""

    name: str
    what: str
    libraries: tuple[str, ...] = ()
    """The packages that it is, any of them."""
    variants: Mapping[str, str] = field(default_factory=dict)
    """By name, what each is; without one, the runtime's own default."""
    workloads: tuple[str, ...] = ("inference", "training")
    precisions: tuple[str, ...] = FLOAT32
    layouts: tuple[str, ...] = ONLY_NCHW
    must_be_tried: bool = False
    """Whether it may not work even on a CPU, so that it is tried before a run."""
    is_plugin: bool = False
    """Whether another package offers it."""


BUILT_IN = (
    RuntimeKind(
        "eager",
        "PyTorch, one operator after the other",
        ("torch",),
        precisions=ALL_PRECISIONS,
        layouts=ALL_LAYOUTS,
    ),
    RuntimeKind(
        "folded",
        "PyTorch eager, each batch normalisation folded into the convolution before it",
        ("torch",),
        workloads=("inference",),
        precisions=ALL_PRECISIONS,
        layouts=ALL_LAYOUTS,
    ),
    RuntimeKind(
        "compile",
        "torch.compile",
        ("torch",),
        variants=MappingProxyType(
            {
                "reduce-overhead": "its mode of that name: CUDA graphs",
                "max-autotune": "its mode of that name: searches kernels",
            }
        ),
        precisions=ALL_PRECISIONS,
        layouts=ALL_LAYOUTS,
        must_be_tried=True,
    ),
    RuntimeKind(
        "ort",
        "ONNX Runtime on the exported graph",
        ("onnxruntime-gpu", "onnxruntime"),
        variants=MappingProxyType(
            {
                "disabled": "no graph optimisation",
                "basic": "constant folding and redundant nodes",
                "extended": "basic, and fusions",
                "tensorrt": "the TensorRT provider",
            }
        ),
    ),
)


@cache
def runtimes() -> Mapping[str, RuntimeKind]:
    """All by name: the built-in ones, then those of other packages."""
    kinds = {kind.name: kind for kind in BUILT_IN}
    for entry in others():
        package = entry.dist.name if entry.dist else entry.value
        kinds.setdefault(
            entry.name,
            RuntimeKind(
                entry.name,
                f"of {package}",
                (package,),
                precisions=ALL_PRECISIONS,
                layouts=ALL_LAYOUTS,
                must_be_tried=True,
                is_plugin=True,
            ),
        )
    return MappingProxyType(kinds)


@cache
def others() -> tuple[EntryPoint, ...]:
    """The entry points of other packages' runtimes."""
    return tuple(entry_points(group=GROUP))


def split(runtime: str) -> tuple[str, str]:
    """Name and variant, empty if it has none: `ort:basic` is ("ort", "basic")."""
    name, _, variant = runtime.partition(":")
    return name, variant


def runs_in_torch(runtime: str) -> bool:
    """Whether it is one of PyTorch's own."""
    return runtimes()[split(runtime)[0]].libraries == ("torch",)


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


def cannot(runtime: str, workload: str, device: str, precision: str, layout: str) -> str | None:
    """Why no machine can run this, or None if one may."""
    name, variant = split(runtime)
    kind = runtimes()[name]
    if workload not in kind.workloads:
        return f"{name} is for {' and '.join(kind.workloads)} alone"
    if precision not in kind.precisions:
        return f"{name} runs {' and '.join(kind.precisions)} alone"
    if layout not in kind.layouts:
        return f"{name} has the layout {' and '.join(kind.layouts)} alone"
    if precision == "fp16" and device == "cpu":
        return "half precision on a CPU is bf16"
    if variant == "tensorrt" and workload == "training":
        return "TensorRT is for inference alone"
    if variant == "tensorrt" and device == "cpu":
        return "TensorRT is for CUDA devices"
    return None

"""The formulations of a convolution's gradients in ONNX Runtime against each other, by shape.

    python -m tests.benchmarks.formulations [--rounds 15] [--batch 8] [--device cuda]

All of a shape are measured in turn, round by round, in one process; ONNX Runtime's threads do not spin, so that they
disturb nobody while it is another's turn. Printed are milliseconds, medians over the rounds.
"""

import argparse
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import onnxruntime as ort

from cnnbench.runner import machine
from cnnbench.suite.case import Device
from cnnbench.worker.graphs.convolution import forward, input_gradient, weight_gradient
from cnnbench.worker.graphs.convolution.forward import Settings
from cnnbench.worker.graphs.graph import Graph, Tensor
from cnnbench.worker.runtimes.ort import make_session, placed

Formulation = Callable[[Graph, Tensor, Tensor, Tensor, Settings], Tensor]


@dataclass(frozen=True)
class Shape:
    """A convolution of square images."""

    inputs: int
    outputs: int
    kernel: int
    size: int
    stride: int = 1
    groups: int = 1

    def settings(self) -> Settings:
        return Settings((self.kernel,) * 2, (self.stride,) * 2, (self.kernel // 2,) * 2, (1, 1), self.groups)

    def __str__(self) -> str:
        kind = "depthwise" if self.groups > 1 else f"{self.inputs} to"
        return f"{self.kernel}x{self.kernel} {kind} {self.outputs}, {self.size}x{self.size}, stride {self.stride}"


SHAPES = (
    Shape(3, 64, 7, 224, stride=2),
    Shape(6, 16, 5, 12),
    Shape(64, 64, 3, 56),
    Shape(192, 384, 3, 13),
    Shape(256, 256, 3, 14),
    Shape(512, 512, 3, 7),
    Shape(128, 256, 3, 28, stride=2),
    Shape(24, 144, 1, 56),
    Shape(96, 24, 1, 56),
    Shape(144, 144, 3, 56, groups=144),
    Shape(144, 144, 3, 56, stride=2, groups=144),
    Shape(960, 960, 3, 7, groups=960),
    Shape(240, 240, 5, 28, groups=240),
    Shape(672, 672, 5, 14, groups=672),
    Shape(1152, 1152, 5, 7, groups=1152),
)


def by_exchanged_convolution(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
    """The textbook's: a convolution of x with dy, batch and channels exchanged."""
    inputs, kernels = (g.transpose(t, [1, 0, 2, 3]) for t in (x, dy))
    size = [w.known(1), w.known(0), *w.spatial()]
    spare = [n + 2 * p - r - (o - 1) * t - 1 for n, p, r, o, t in _sizes(x, dy, s)]
    wide = (size[0], size[1], *(k + e for k, e in zip(s.kernel, spare, strict=True)))
    pads = [*s.padding, *s.padding]
    whole = g("Conv", inputs, kernels, shape=wide, dilations=s.stride, strides=s.dilation, pads=pads)
    return g.transpose(g.window(whole, [2, 3], [0, 0], list(s.kernel), [1, 1]), [1, 0, 2, 3])


def _sizes(x: Tensor, dy: Tensor, s: Settings) -> Any:
    return zip(x.spatial(), s.padding, s.dilated_extent(), dy.spatial(), s.stride, strict=True)


def by_sums(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
    """Depthwise: for each kernel element, the product of its inputs and dy, summed over images and pixels."""
    padded, axes = g.pad(x, s.padding, s.padding), list(range(2, x.ndim))
    sums = [
        g.reshape(
            g.sum(g.mul(g.window(padded, axes, element, dy.spatial(), s.stride), dy), [0, *axes]), (w.known(0), 1)
        )
        for element in s.kernel_elements()
    ]
    return g.reshape(g.concat(sums, 1), w.shape)


def where(fits: Callable[[Settings], bool], formulation: Formulation) -> Formulation:
    """The formulation, for the convolutions that it is written for."""

    def fitting(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
        if not fits(s):
            raise NotImplementedError
        return formulation(g, dy, x, w, s)

    return fitting


def is_plain(s: Settings) -> bool:
    return s.groups == 1


def is_depthwise(s: Settings) -> bool:
    return s.groups > 1


def is_depthwise_in_steps_of_1(s: Settings) -> bool:
    return s.groups > 1 and set(s.stride) == {1}


def is_plain_1x1(s: Settings) -> bool:
    return s.groups == 1 and s.kernel == (1, 1)


def input_by_rows(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
    """Of a depthwise convolution: dy, spread by the strides, times banded matrices of the weight turned around."""
    padded, flipped = _spread(g, dy, x, w, s)
    plain = Settings(s.kernel, (1, 1), (0, 0), s.dilation, s.groups)
    return forward_by_rows(g, padded, flipped, plain, x.spatial())


def input_by_convolution(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
    """A convolution of dy, spread by the strides, with the weight turned around."""
    padded, flipped = _spread(g, dy, x, w, s)
    return g("Conv", padded, flipped, shape=x.shape, kernel_shape=s.kernel, dilations=s.dilation, group=s.groups)


def _spread(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> tuple[Tensor, Tensor]:
    stuffed = _stuffed(g, dy, s.stride)
    before = [r - pad for r, pad in zip(s.dilated_extent(), s.padding, strict=True)]
    after = [size - n + pad for size, n, pad in zip(x.spatial(), stuffed.spatial(), s.padding, strict=True)]
    per_group = w.known(0) // s.groups
    grouped = g.reshape(w, (s.groups, per_group, *w.shape[1:]))
    flipped = g.reshape(g.transpose(grouped, [0, 2, 1, 3, 4]), (s.groups * w.known(1), per_group, *w.spatial()))
    return g.pad(stuffed, before, after), input_gradient.flipped(g, flipped)


def _stuffed(g: Graph, x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """x with stride - 1 zeros between its entries."""
    if set(stride) == {1}:
        return x
    (height, width), (down, right) = x.spatial(), stride
    column = g.reshape(x, (*x.shape[:2], height, 1, width, 1))
    after = g.integers([0] * 6 + [0, 0, 0, down - 1, 0, right - 1])
    zeros = g("Pad", column, after, shape=(*x.shape[:2], height, down, width, right))
    whole = g.reshape(zeros, (*x.shape[:2], height * down, width * right))
    return g.window(whole, [2, 3], [0, 0], [(height - 1) * down + 1, (width - 1) * right + 1], [1, 1])


def forward_by_rows(g: Graph, x: Tensor, w: Tensor, s: Settings, out: tuple[int, ...]) -> Tensor:
    """A depthwise convolution of padded images: each row times a banded matrix that is made of the weight."""
    (height, width), channels, padded = out, w.known(0), x.spatial()[1]
    rows = [g.window(x, [2], [i * s.dilation[0]], [height], [s.stride[0]]) for i in range(s.kernel[0])]
    kernel_elements = g.reshape(w, (channels * s.kernel[0], s.kernel[1]))
    banded = g.matmul(kernel_elements, g.constant(weight_gradient.joined_columns(width, padded, s)))
    matrices = g.reshape(banded, (channels, s.kernel[0], width, padded))
    stacked = g.reshape(g.transpose(matrices, [0, 1, 3, 2]), (channels, s.kernel[0] * padded, width))
    return g.matmul(g.concat(rows, 3), stacked)


def forwards(formulation: Callable[..., Tensor]) -> Formulation:
    """Of x and the weight alone."""
    return lambda g, _, x, w, s: formulation(g, x, w, None, s)


def input_by_bands(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
    """Of a depthwise convolution with strides of 1."""
    margins = tuple(reach - pad for reach, pad in zip(s.dilated_extent(), s.padding, strict=True))
    around = Settings(s.kernel, s.stride, margins, s.dilation, s.groups)
    return forward.banded(g, dy, input_gradient.flipped(g, w), None, around)


def depthwise_by_rows(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
    plain = Settings(s.kernel, s.stride, (0, 0), s.dilation, s.groups)
    return forward_by_rows(g, g.pad(x, s.padding, s.padding), w, plain, dy.spatial())


GRADIENTS: dict[str, dict[str, Formulation]] = {
    "forward": {
        "by images": forwards(forward.by_images),
        "as one image": where(is_plain, forwards(forward.as_one_image)),
        "by bands": where(is_depthwise, forwards(forward.banded)),
        "by rows": where(is_depthwise, depthwise_by_rows),
    },
    "input": {
        "ConvTranspose": input_gradient.by_transposed_convolution,
        "Conv, turned": input_by_convolution,
        "by bands": where(is_depthwise_in_steps_of_1, input_by_bands),
        "by rows": where(is_depthwise, input_by_rows),
    },
    "weight": {
        "exchanged Conv": where(is_plain, by_exchanged_convolution),
        "by windows": weight_gradient.by_windows,
        "by products": weight_gradient.by_products,
        "by images": where(is_plain_1x1, weight_gradient.by_images),
        "channels first": where(is_plain, partial(weight_gradient.by_convolution, place=0)),
        "channels last": where(is_plain, partial(weight_gradient.by_convolution, place=2)),
        "by rows": where(is_depthwise, weight_gradient.by_rows),
        "by channels": where(is_depthwise, weight_gradient.by_channels),
        "by columns": where(is_depthwise, weight_gradient.by_columns),
        "by sums": where(is_depthwise, by_sums),
    },
}


def session_of(
    formulation: Formulation, shape: Shape, arrays: dict[str, Any], threads: int, device: Device
) -> Callable[[], Any]:
    """What computes the formulation on the arrays, which are on the device, as is the result."""
    graph = Graph()
    dy, x = (graph.input(name, (None, *arrays[name].shape[1:])) for name in ("dy", "x"))
    w = graph.input("w", arrays["w"].shape)
    graph.output(formulation(graph, dy, x, w, shape.settings()), "result")
    options = ort.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = make_session(graph.model("formulation", {}).SerializeToString(), device, threads, options=options)
    binding = session.io_binding()
    for value in session.get_inputs():
        binding.bind_ortvalue_input(value.name, placed(arrays[value.name], device))
    binding.bind_output("result", device)

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    words = parser.parse_args()
    threads = machine.usable_threads()
    generator = np.random.default_rng(0)
    for shape in SHAPES:
        out = (shape.size + 2 * (shape.kernel // 2) - shape.kernel) // shape.stride + 1
        arrays = {
            "x": generator.standard_normal((words.batch, shape.inputs, shape.size, shape.size), np.float32),
            "w": generator.standard_normal(
                (shape.outputs, shape.inputs // shape.groups, shape.kernel, shape.kernel), np.float32
            ),
            "dy": generator.standard_normal((words.batch, shape.outputs, out, out), np.float32),
        }
        print(shape)
        for what, formulations in GRADIENTS.items():
            runs: dict[str, Callable[[], Any]] = {}
            for name, formulation in formulations.items():
                try:
                    runs[name] = session_of(formulation, shape, arrays, threads, words.device)
                except NotImplementedError:
                    continue
            times: dict[str, list[float]] = {name: [] for name in runs}
            for _ in range(words.rounds):
                for name in random.sample(list(runs), len(runs)):
                    runs[name]()
                    start = time.perf_counter()
                    runs[name]()
                    times[name].append(time.perf_counter() - start)
            print(f"  {what:8}", ", ".join(f"{name} {median(t) * 1e3:.3g}" for name, t in times.items()), flush=True)


if __name__ == "__main__":
    main()

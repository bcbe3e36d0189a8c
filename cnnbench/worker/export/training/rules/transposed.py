"""The transposed convolution (N, K, ...) of (N, C, ...): the input's gradient of a convolution from K to C channels."""

from collections.abc import Sequence

from cnnbench.worker.export.training.rules.rule import OpResult, Param, Shape, op_result
from cnnbench.worker.graphs.convolution import forward, weight_gradient
from cnnbench.worker.graphs.convolution.forward import Settings
from cnnbench.worker.graphs.graph import Graph, Tensor


def conv_transpose(
    g: Graph,
    out: Sequence[Shape],
    x: Tensor,
    w: Tensor,
    b: Param = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    output_padding: Sequence[int] = (0,),
    groups: int = 1,
    dilation: Sequence[int] = (1,),
) -> OpResult:
    """aten.conv_transpose1d, conv_transpose2d.input, conv_transpose3d.input; the weight is (C, K / groups, ...).

    Written without padding and then cut or filled up with zeros: ONNX Runtime is wrong where the output padding is not
    smaller than the stride (https://github.com/microsoft/onnxruntime/issues/14208).
    """
    sides = x.ndim - 2
    stride, padding, dilation = (
        tuple(values) * (sides if len(values) == 1 else 1) for values in (stride, padding, dilation)
    )
    s = Settings(w.spatial(), stride, padding, dilation, groups)
    wide = Settings(s.kernel, s.stride, (0,) * sides, s.dilation, groups)
    channels = w.known(1) * groups
    whole = tuple(
        (size - 1) * step + extent + 1
        for size, step, extent in zip(x.spatial(), s.stride, s.dilated_extent(), strict=True)
    )
    y = g("ConvTranspose", x, w, b, shape=(x.shape[0], channels, *whole), **wide.attributes())
    sizes = [size or 0 for size in out[0][2:]]
    after = [size + pad - full for size, pad, full in zip(sizes, s.padding, whole, strict=True)]
    if b is not None and any(extra > 0 for extra in after):  # what is filled up has the bias too
        y = g("ConvTranspose", x, w, shape=y.shape, **wide.attributes())
    y = g.pad(y, [-pad for pad in s.padding], after)
    if b is not None and any(extra > 0 for extra in after):
        y = g.add(y, g.reshape(b, (1, channels, *(1,) * sides)))
    return op_result(
        y,
        (
            x,
            lambda dy: g.window(
                forward.by_images(g, dy, w, None, s), range(2, x.ndim), (0,) * sides, x.spatial(), (1,) * sides
            ),
        ),
        (w, lambda dy: weight_gradient.fastest(g, x, dy, w, s)),
        (b, lambda dy: g.sum(dy, [0, *range(2, x.ndim)])),
    )

"""Which nodes of a graph have a kernel in ONNX Runtime's CUDA provider, by its published table. No torch, no device.

The table is that of onnxruntime's docs/OperatorKernels.md, section CUDAExecutionProvider, at commit
001d12d2623fd411ce0f83d05abb5e82304a3389, without kernels for opsets below 13 and operators on sequences. A line is an
operator and its kernels: the versions, then the types of each constraint; what a constraint does not name is not
checked. FLOATS and so on are sets of types; others stand by their own letters.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from typing import NamedTuple

import onnx
from onnx import TensorProto, defs

from cnnbench.records.messages import FindKernels, KernelsFound

LETTERS: Mapping[str, tuple[int, ...]] = {
    "f": (TensorProto.FLOAT,),
    "d": (TensorProto.DOUBLE,),
    "h": (TensorProto.FLOAT16,),
    "b": (TensorProto.BFLOAT16,),
    "?": (TensorProto.BOOL,),
    "c": (TensorProto.INT8,),
    "i": (TensorProto.INT32,),
    "l": (TensorProto.INT64,),
    "C": (TensorProto.UINT8,),
    "L": (TensorProto.UINT64,),
    "s": (TensorProto.INT16,),
    "z": (TensorProto.STRING,),
    "F": (TensorProto.DOUBLE, TensorProto.FLOAT, TensorProto.FLOAT16),
    "J": (TensorProto.INT32, TensorProto.INT64),
    "M": (TensorProto.INT32, TensorProto.INT64, TensorProto.UINT32, TensorProto.UINT64),
    "S": (TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64),
    "N": (
        *(TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64),
        *(TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64),
    ),
}
"""F: double, float, float16. J: signed integers of 32 and 64 bits; M: unsigned ones too. S: all signed ones; N: all."""
TABLE = """
Abs 13+ T=FbN
Add 14+ T=FbN | 13 T=FbM
And 7+ T=? T1=?
ArgMax 13+ T=F
ArgMin 13+ T=F
Attention 24+ T1=fhb T2=fhb U=fhb? | 23 T1=fhb T2=fhb U=fhb?
AveragePool 22+ T=Fb | 19-21 T=F | 11-18 T=F
BatchNormalization 15+ T=F T1=F T2=F | 14 T=F U=F | 9-13 T=F
Cast 23+ T1=Fb?N T2=Fb?N | 21-22 T1=Fb?N T2=Fb?N | 19-20 T1=Fb?N T2=Fb?N | 13-18 T1=Fb?N T2=Fb?N
Ceil 13+ T=F
Clip 13+ T=FlcLC
Compress 11+ T=Fb?N T1=?
Concat 13+ T=Fb?N
ConstantOfShape 9+ T1=l T2=Fb?N
Conv 22+ T=Fb | 11-21 T=F
ConvTranspose 11+ T=F
Cos 7+ T=F
CumSum 14+ T=FM T2=J | 11-13 T=fdM T2=J
DepthToSpace 13+ T=F
DequantizeLinear 21+ T1=cC T2=fh | 19-20 T1=cC T2=fh | 13-18 T=cC
Div 14+ T=FbN | 13 T=FbM
Dropout 13+ T=Fb T1=Fb T2=?
Einsum 12+ T=F
Elu 6+ T=F
Equal 13+ T=?FM T1=?
Erf 13+ T=Fb
Exp 13+ T=Fb
Expand 13+ T=Fb?N
Flatten 13+ T=Fb?N
Floor 13+ T=F
GRU 14+ T=F T1=i
Gather 13+ T=Fb?N Tind=J
GatherElements 13+ T=Fb?N Tind=J
GatherND 13+ T=Fb?l
Gelu 20+ T=Fb
Gemm 13+ T=Fb
GlobalAveragePool 1+ T=F
GlobalMaxPool 1+ T=F
Greater 13+ T=FM T1=?
GreaterOrEqual 16+ T=FM T1=? | 12-15 T=FM T1=?
GridSample 22+ T1=f T2=f | 20-21 T1=f T2=f | 16-19 T1=f T2=f
HardSigmoid 22+ T=Fb | 6-21 T=F
HardSwish 22+ T=Fb | 14-21 T=F
Identity 19+ V=Fb?N | 14-18 V=Fb?N | 13 T=Fb?N
If 19+ B=? | 13-18 B=?
InstanceNormalization 6+ T=F
IsInf 20+ T1=Fb T2=? | 10-19 T1=fd T2=?
IsNaN 20+ T1=Fb T2=? | 13-19 T1=Fb T2=?
LRN 13+ T=F
LSTM 14+ T=F T1=i
LayerNormalization 17+ T=Fb U=f
LeakyRelu 16+ T=F | 6-15 T=F
Less 13+ T=FM T1=?
LessOrEqual 16+ T=FM T1=? | 12-15 T=FM T1=?
Log 13+ T=F
LogSoftmax 13+ T=F
Loop 19+ B=? I=l | 13-18 B=? I=l
MatMul 13+ T=Fb
MatMulInteger 10+ T1=c T2=c T3=i
Max 13+ T=FbM
MaxPool 12+ T=FcC I=l
Min 13+ T=FbM
Mod 13+ T=FbM
Mul 14+ T=FbN | 13 T=FbM
Neg 13+ T=FbS
NonZero 13+ T=?fhJC
Not 1+ T=?
OneHot 11+ T1=J T2=J T3=fhl
Or 7+ T=? T1=?
PRelu 16+ T=F | 9-15 T=F
Pad 18+ T=?F | 13-17 T=?F
Pow 15+ T=FbJ T1=FbJ | 13-14 T=FbJ T1=FJ
QuantizeLinear 21+ T1=fh T2=cC | 19-20 T1=fh T2=cC | 13-18 T1=f T2=cC
RNN 14+ T=F T1=i
RandomNormal 1+ T=F
RandomNormalLike 1+ T2=F
RandomUniform 1+ T=F
RandomUniformLike 1+ T2=F
Range 11+ T=fdsJ
Reciprocal 13+ T=F
ReduceL1 18+ T=Fi | 1-17 T=Fi
ReduceL2 18+ T=Fi | 1-17 T=Fi
ReduceLogSum 18+ T=F | 1-17 T=F
ReduceLogSumExp 18+ T=F | 1-17 T=F
ReduceMax 18+ T=FJ | 1-17 T=FJ
ReduceMean 18+ T=Fi | 1-17 T=Fi
ReduceMin 18+ T=FJcC | 1-17 T=FJcC
ReduceProd 18+ T=Fi | 1-17 T=Fi
ReduceSum 13+ T=FbJ
ReduceSumSquare 18+ T=F | 1-17 T=F
Relu 14+ T=Fb | 13 T=Fb
Reshape 23+ T=Fb?N | 21-22 T=Fb?N | 19-20 T=Fb?N | 14-18 T=Fb?N | 13 T=Fb?N
Resize 19+ T1=FiC | 18 T1=FiC | 13-17 T1=FiC
ReverseSequence 10+ T=Fb?N
RoiAlign 10+ T1=fd T2=l
Round 11+ T=F
Scan 19+ V=Fb?N | 16-18 V=Fb?N | 11-15 V=Fb?N
ScatterElements 18+ T=Fb?N Tind=J | 16-17 T=Fb?N Tind=J | 13-15 T=Fb?N Tind=J
ScatterND 18+ T=Fb?N | 16-17 T=Fb?N | 13-15 T=Fb?N
Selu 6+ T=F
Shape 23+ T=Fb?N | 21-22 T=Fb?N | 19-20 T=Fb?N | 15-18 T=Fb?N | 13-14 T=Fb?N
Shrink 9+ T=FN
Sigmoid 13+ T=Fb
Sign 13+ T=FbN
Sin 7+ T=F
Size 13+ T=Fb?zN
Slice 13+ T=Fb?N Tind=J
Softmax 13+ T=Fb
Softplus 1+ T=F
Softsign 1+ T=F
SpaceToDepth 13+ T=F
Split 18+ T=Fb?N | 13-17 T=Fb?N
Sqrt 13+ T=Fb
Squeeze 23+ T=Fb?N | 21-22 T=Fb?N | 13-20 T=Fb?N
Sub 14+ T=FbN | 13 T=FbM
Sum 13+ T=Fb
Tanh 13+ T=Fb
ThresholdedRelu 10+ T=F
Tile 13+ T=FbJ T1=l
TopK 11+ T=FJ I=l
Transpose 23+ T=Fb?N | 21-22 T=Fb?N | 13-20 T=Fb?N
Trilu 14+ T=Fb?N
Unsqueeze 23+ T=Fb?N | 21-22 T=Fb?N | 13-20 T=Fb?N
Where 16+ B=? T=FbJC | 9-15 B=? T=FJC
Xor 7+ T=? T1=?
"""
EVERYWHERE = ("Constant",)
"""What becomes an initialiser when a graph is loaded."""


class Kernel(NamedTuple):
    """One entry of the table."""

    first: int
    last: int | None
    """None where it is for the operator's version `first` alone, the newest one that ONNX Runtime knows."""
    types: Mapping[str, frozenset[int]]
    """By constraint."""

    def takes(self, version: int, types: Mapping[str, int]) -> bool:
        """Whether it is for an operator of this version, on these types by constraint."""
        is_for = self.first == version or (self.last is not None and self.first <= version <= self.last)
        return is_for and all(types.get(name, next(iter(known))) in known for name, known in self.types.items())


def find_kernels(request: FindKernels) -> KernelsFound:
    """What a file's graph needs and the table has not; weights in a second file are not read."""
    return KernelsFound(without=without_kernel(onnx.load(request.file, load_external_data=False)))


@cache
def kernels() -> Mapping[str, list[Kernel]]:
    """Those of the table by operator."""
    found: dict[str, list[Kernel]] = {}
    for line in TABLE.strip().splitlines():
        operator, _, entries = line.partition(" ")
        found[operator] = [_kernel(*entry.split()) for entry in entries.split(" | ")]
    return found


def _kernel(versions: str, *constraints: str) -> Kernel:
    first, _, last = versions.removesuffix("+").partition("-")
    pairs = (each.split("=") for each in constraints)
    types = {name: frozenset(type_ for letter in letters for type_ in LETTERS[letter]) for name, letters in pairs}
    return Kernel(int(first), int(last or first) if not versions.endswith("+") else None, types)


def without_kernel(model: onnx.ModelProto) -> dict[str, int]:
    """How many nodes of each operator, with its version and types, have no kernel: `Atan-7 (float)`.

    ONNX Runtime runs them on the CPU, with copies from and to the device. Types are those that onnx infers; the model's
    weights are dropped for that.
    """
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.ClearField("raw_data")
    versions = {each.domain: each.version for each in model.opset_import}
    graph = onnx.shape_inference.infer_shapes(model).graph
    found = Counter(_missing(graph, versions.get("", 0), {}))
    return dict(found.most_common())


def _missing(graph: onnx.GraphProto, opset: int, outer: Mapping[str, int]) -> Iterator[str]:
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    types = {**outer, **types, **{tensor.name: tensor.data_type for tensor in graph.initializer}}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _missing(attribute.g, opset, types)
        if node.op_type in EVERYWHERE:
            continue
        if node.domain not in ("", "ai.onnx") or not defs.has(node.op_type):
            yield f"{node.domain}.{node.op_type}"
            continue
        schema = defs.get_schema(node.op_type, opset)
        known: dict[str, int] = {}
        for formal, names in ((schema.inputs, node.input), (schema.outputs, node.output)):
            for place, name in enumerate(names):
                constraint = formal[min(place, len(formal) - 1)].type_str
                if name and types.get(name):
                    known.setdefault(constraint, types[name])
        if not any(each.takes(schema.since_version, known) for each in kernels().get(node.op_type, ())):
            named = ", ".join(dict.fromkeys(TensorProto.DataType.Name(each).lower() for each in known.values()))
            yield f"{node.op_type}-{schema.since_version} ({named})"

"""What a graph may be made of: looked at before anything loads it, on devices, servers and at export (issue #6).

The list has the operators of ONNX that turn tensors of numbers into tensors of numbers. What it leaves out reads other
files, decodes media, handles text and sequences, or is random; and so is every operator that a file defines itself or
that comes from a library, but for those that onnxruntime's own training artifacts are made of.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from google.protobuf.message import DecodeError

from protos.ravan.v1.graph_pb2 import OnnxGraph, OnnxModel, OnnxNode, OnnxTensor
from ravan.bundle import Bundle
from ravan.bundle_files import ARTIFACTS
from ravan.errors import BundleError

GRAPH = ".onnx"
_ELEMENTWISE = """
    Abs Acos Acosh Add And Asin Asinh Atan Atanh Cast CastLike Ceil Celu Clip Cos Cosh Div Dropout Elu Equal Erf
    Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual
    Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh
    Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor
"""
_PRODUCTS = """
    Conv ConvInteger ConvTranspose DequantizeLinear DynamicQuantizeLinear Einsum GRU Gemm LSTM MatMul
    MatMulInteger QLinearConv QLinearMatMul QuantizeLinear RNN
"""
_OVER_AXES = """
    ArgMax ArgMin AveragePool BatchNormalization CumSum GlobalAveragePool GlobalMaxPool GroupNormalization Hardmax
    InstanceNormalization LRN LayerNormalization LogSoftmax LpNormalization LpPool MaxPool
    MeanVarianceNormalization NegativeLogLikelihoodLoss RMSNormalization ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Softmax
    SoftmaxCrossEntropyLoss TopK
"""
_PLACES = """
    Compress Concat Constant ConstantOfShape DepthToSpace Expand EyeLike Flatten Gather GatherElements GatherND
    NonZero OneHot Pad Range Reshape Resize ScatterElements ScatterND Shape Size Slice SpaceToDepth Split Squeeze
    Tile Transpose Trilu Unsqueeze
"""
_REPEATING = "Loop"  # the loss over a vocabulary, in pieces; its body is looked at too
STANDARD = frozenset(" ".join((_ELEMENTWISE, _PRODUCTS, _OVER_AXES, _PLACES, _REPEATING)).split())
"""Of the standard domain."""
LIBRARY = "com.microsoft"
TRAINING = re.compile(
    r"\w+Grad(_13)?|AdamWOptimizer|ConcatTraining|FusedMatMul|InPlaceAccumulatorV2|QuickGelu|Scale|SplitTraining"
)
"""Of onnxruntime's own domain, in the artifacts of onnxruntime-training alone."""


def check_graphs(bundle: Bundle, names: Iterable[str]) -> None:
    """``check_graph`` for those of a bundle's files that are graphs.

    Raises:
        BundleError: in one of them is something else, or it is no ONNX file.
    """
    for name in names:
        if name.endswith(GRAPH):
            check_graph(bundle.path(name), bundle.manifest.files, artifact=name in ARTIFACTS)


def check_graph(path: Path, files: Collection[str], *, artifact: bool = False) -> None:
    """Checks that an ONNX file has nothing but operators of the list, and its weights in ``files``.

    Args:
        path: the file.
        files: names of files in its folder that its weights may be in.
        artifact: whether it is one of onnxruntime-training's.

    Raises:
        BundleError: something else is in it, or it is no ONNX file.
    """
    try:
        model = OnnxModel.FromString(path.read_bytes())
    except (DecodeError, OSError) as error:
        raise BundleError(f"{path.name} can't be read as ONNX ({error}): export the bundle again.") from error
    for name in _operators(model):
        if name in STANDARD or (artifact and TRAINING.fullmatch(name.removeprefix(f"{LIBRARY}."))):
            continue
        raise BundleError(
            f"{path.name} has the operator {_printable(name)}, which no device runs: replace the module that needs it."
        )
    for tensor in _tensors(model.graph):
        for entry in tensor.external_data:
            if entry.key == "location" and entry.value not in files:
                raise BundleError(
                    f"{path.name} has weights in {_printable(entry.value)}, which is not of the bundle: do not use it."
                )


def _operators(model: OnnxModel) -> Iterator[str]:
    """Names of all operators, those of other domains than the standard one with theirs, and of what else none needs."""
    for function in model.functions:
        yield f"{function.name} (defined by the file)"
    for graph in _graphs(model.graph):
        if graph.sparse_initializer:
            yield "SparseTensor"
        for node in graph.node:
            yield node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _graphs(graph: OnnxGraph) -> Iterator[OnnxGraph]:
    """A graph and those inside it; protobuf itself bounds how deep they lie."""
    yield graph
    for node in graph.node:
        for inner in _bodies(node):
            yield from _graphs(inner)


def _bodies(node: OnnxNode) -> Iterator[OnnxGraph]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _tensors(outer: OnnxGraph) -> Iterator[OnnxTensor]:
    for graph in _graphs(outer):
        yield from graph.initializer
        for node in graph.node:
            for attribute in node.attribute:
                yield attribute.t
                yield from attribute.tensors


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:100])

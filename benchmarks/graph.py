"""What each node of an optimized training graph is for, and the multiply-adds of its product."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import onnx

from ravan.runtime.names import TRAINABLES
from ravan.spec import AdapterSpec


class Group(StrEnum):
    """Kinds of operators in the report."""

    FROZEN = "frozen products"
    ADAPTER = "adapter products"
    ATTENTION = "attention products"
    SOFTMAX = "softmax"
    NORM = "norm"
    ACTIVATION = "activation"
    ELEMENTWISE = "other elementwise and reductions"
    LAYOUT = "layout and copies"


INT8 = frozenset({"DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat"})
PRODUCTS = INT8 | {"MatMul", "FusedMatMul", "Gemm", "FusedGemm", "Conv", "FusedConv"}
RECOMPUTED = "_again"  # ends the name of a value that the backward pass computes a second time to save memory

_GROUPS = {
    Group.FROZEN: ("DynamicQuantizeLinear",),
    Group.SOFTMAX: ("Softmax", "LogSoftmax"),
    Group.NORM: (
        "LayerNormalization",
        "SimplifiedLayerNormalization",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
    ),
    Group.ACTIVATION: ("Gelu", "FastGelu", "BiasGelu", "QuickGelu", "Erf", "Exp", "Tanh", "Sigmoid", "Relu"),
    Group.LAYOUT: (
        *("Transpose", "Reshape", "Concat", "Split", "Slice", "Gather", "GatherND", "GatherElements", "ScatterND"),
        *("Expand", "Cast", "Squeeze", "Unsqueeze", "Identity", "Pad", "Shape", "Range", "OneHot", "Tile"),
    ),
}
_GROUP_OF = {op: group for group, ops in _GROUPS.items() for op in ops}

Shape = Sequence[int]


@dataclass(frozen=True)
class Product:
    """Multiply-adds of one product, in 8 bits or float32.

    Attributes:
        weight: [k, n] of a frozen product of two matrices, else None.
    """

    group: Group
    int8: bool
    multiply_adds: int
    weight: tuple[int, int] | None = None


class OptimizedGraph:
    """The training step as onnxruntime runs it, by the names of its nodes.

    A product is the attention's if both operands come from the batch and have at least three axes; a frozen one if
    one operand comes from the batch and the other holds weights that are neither trained nor a base A or B, which an
    axis of rank or heads * rank tells. All others belong to the adapters and the modules trained whole.
    """

    def __init__(self, model: onnx.ModelProto, spec: AdapterSpec) -> None:
        self.nodes = {node.name: node for node in _walk(model.graph)}
        self._base_axes = {spec.rank, spec.heads * spec.rank}
        given = {value.name for value in model.graph.input} - {TRAINABLES}
        inner = {value.name for graph in _bodies(model.graph) for value in graph.input}
        self._of_batch = _reached(model.graph, given | inner)
        self._trained = _reached(model.graph, {TRAINABLES})
        self._constants = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}

    def has_body(self, name: str) -> bool:
        """Whether a node holds a graph, whose nodes are measured on their own."""
        return any(attribute.HasField("g") for attribute in self.nodes[name].attribute)

    def group(self, name: str, inputs: Sequence[Shape]) -> Group:
        """What a node is for, from its name and the shapes of its inputs."""
        node = self.nodes[name]
        if node.op_type not in PRODUCTS:
            return _GROUP_OF.get(node.op_type, Group.ELEMENTWISE)
        operands = self._operands(node, inputs)
        weights = [i for i, value in enumerate(node.input[:2]) if value not in self._of_batch]
        if not weights:
            return Group.ATTENTION if min(map(len, operands)) > 2 else Group.ADAPTER
        trained = any(node.input[i] in self._trained for i in weights)
        base = any(self._base_axes & set(operands[i]) for i in weights)
        return Group.ADAPTER if len(weights) == 2 or trained or base else Group.FROZEN

    def product(self, name: str, inputs: Sequence[Shape], output: Shape) -> Product | None:
        """A node's product; None if it is none, or one computed a second time."""
        node = self.nodes[name]
        if node.op_type not in PRODUCTS or any(RECOMPUTED in value for value in (node.name, *node.output)):
            return None
        group, int8 = self.group(name, inputs), node.op_type in INT8
        if node.op_type.endswith("Conv"):
            return Product(group, int8, math.prod(output) * math.prod(self._operands(node, inputs)[1][1:]))
        k = inputs[0][_inner_axis(node)]
        weight = (k, output[-1]) if group is Group.FROZEN else None
        return Product(group, int8, math.prod(output) * k, weight)

    def _operands(self, node: onnx.NodeProto, inputs: Sequence[Shape]) -> tuple[Shape, Shape]:
        """Of a product; the profiler leaves out a second operand that onnxruntime has packed for itself."""
        constant = self._constants.get(node.input[1])
        return inputs[0], inputs[1] if constant is None else constant


def _walk(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those of a body before the node that holds it."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _walk(attribute.g)
        yield node


def _bodies(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    for node in _walk(graph):
        yield from (attribute.g for attribute in node.attribute if attribute.HasField("g"))


def _reached(graph: onnx.GraphProto, sources: set[str]) -> set[str]:
    """The values that depend on more of the sources than their shapes."""
    found = set(sources)
    for node in _walk(graph):
        inner = {value.name for attribute in node.attribute for value in attribute.g.output}
        if node.op_type != "Shape" and found & {*node.input, *inner}:
            found |= set(node.output)
    return found - {""}


def _inner_axis(node: onnx.NodeProto) -> int:
    """The axis of a product's first operand that it sums over, as Gemm and FusedMatMul define it."""
    if not _attribute(node, "transA"):
        return -1
    return 0 if _attribute(node, "transBatchA") else -2


def _attribute(node: onnx.NodeProto, name: str) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), 0)


def shapes(described: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Shapes as onnxruntime's profiler writes them: for each value its type and its sizes."""
    return [list(*value.values()) for value in described]

"""int8 for the frozen matrix products of a graph, forward and backward, in plain ONNX operators.

A product x W with a frozen W [d_in, d_out] becomes DynamicQuantizeLinear, MatMulInteger with an int8 W, and one
multiplication by the scales, one per output column. onnxruntime runs these as one kernel, about 3.5 times as fast as
the float product on a CPU with 8-bit dot products. The forward pass needs W^T of a layer and the backward pass W, so
two int8 copies are stored, half of one float copy.

One scale serves a whole input. Where a few channels are far larger than the rest, each is divided by a factor first,
which the rows of W take over (arXiv 2211.10438). Where rows differ much in size, as those of a gradient do by orders of
magnitude, each is divided by the range of its values and multiplied back after; where that is not enough, what the
quantization leaves over is quantized too, for a second product. ``export.calibrate`` says where.

Embedding tables, often half of a small model, are stored the same way, one scale per row.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import onnx_ir as ir

from export.onnx_builder import Builder
from export.row_sizes import RowSizes

SMALLEST = 128 * 128  # values of W; below, the product is not worth its overhead
LARGEST = 127  # of an int8 weight; symmetric, so that no zero point is needed
LARGEST_PAIR = 127  # of the sum of two neighbours before rounding: 255 * (127 + 1) is still a 16-bit number


class Fineness(IntEnum):
    """How finely a product's input is quantized: one scale for all, one per row, or that and the rest once more."""

    TENSOR = 0
    ROWS = 1
    TWICE = 2


@dataclass(frozen=True)
class Scheme:
    """How a product's input is quantized.

    Attributes:
        fineness: how many scales it has.
        channels: [d_in], what each channel is divided by first and each row of W multiplied by; None for none.
    """

    fineness: Fineness = Fineness.TENSOR
    channels: np.ndarray | None = None


def quantize_frozen_products(
    graph: ir.Graph, gradients: Container[ir.Node] = (), forward: Mapping[str, Scheme] | None = None
) -> int:
    """Rewrites every MatMul by a frozen weight, in place.

    Args:
        graph: float, forward and perhaps backward.
        gradients: the nodes of the backward pass, whose inputs get a scale per row.
        forward: the scheme of the others by the name of their weight; one scale for all where it says nothing.

    Returns:
        How many products were rewritten.
    """
    b = Builder(graph, "int8")
    rows, products = RowSizes(b), frozen_products(graph)
    for node in products:
        x, weight = node.inputs[0], frozen_weight(node.inputs[1])
        assert x is not None
        assert weight is not None
        scheme = (forward or {}).get(weight_name(node.inputs[1]), Scheme())
        if node in gradients:
            scheme = Scheme(Fineness.ROWS)
        elif scheme.channels is not None:
            x, weight = b.op("Mul", x, 1 / scheme.channels), weight * scheme.channels[:, None]
        _replace(graph, node, _Frozen.of(b, weight).product(x, rows, scheme.fineness))
    graph.sort()
    return len(products)


def frozen_products(graph: ir.Graph) -> list[ir.Node]:
    """Every MatMul by a frozen weight that is worth quantizing."""
    return [node for node in graph if node.op_type == "MatMul" and frozen_weight(node.inputs[1]) is not None]


def quantize_embeddings(graph: ir.Graph) -> int:
    """Stores every table [rows, width] that whole rows are gathered from in int8, in place.

    Returns:
        How many gathers were rewritten.
    """
    b = Builder(graph, "table")
    count = 0
    for node in list(graph):
        table = frozen_weight(node.inputs[0]) if node.op_type == "Gather" else None
        if table is None or node.attributes.get_int("axis", 0) != 0:
            continue
        int8, scale = _per_column(table.T)
        rows = b.op(
            "Cast", b.op("Gather", b.constant(np.ascontiguousarray(int8.T)), node.inputs[1]), to=ir.DataType.FLOAT
        )
        _replace(graph, node, b.op("Mul", rows, b.op("Gather", b.constant(scale[:, None]), node.inputs[1])))
        count += 1
    graph.sort()
    return count


def frozen_weight(value: ir.Value | None) -> np.ndarray | None:
    """As ``frozen_matrix``, but None for a small one."""
    matrix = frozen_matrix(value)
    return None if matrix is None or matrix.size < SMALLEST else matrix


def frozen_matrix(value: ir.Value | None) -> np.ndarray | None:
    """The constant float matrix behind a value, at most one Transpose away; None if it is none."""
    source = _source(value)
    if source is None or not source.is_initializer() or source.const_value is None:
        return None
    tensor = source.const_value
    if source.dtype != ir.DataType.FLOAT or len(tensor.shape) != 2:
        return None
    return tensor.numpy() if source is value else tensor.numpy().T


def weight_name(value: ir.Value | None) -> str:
    """The name of the constant behind a value; a layer's weight has the same in the forward and the backward pass."""
    source = _source(value)
    return (source.name or "") if source is not None else ""


def _source(value: ir.Value | None) -> ir.Value | None:
    """What a Transpose turns, or the value itself."""
    producer = value.producer() if value is not None else None
    return producer.inputs[0] if producer is not None and producer.op_type == "Transpose" else value


@dataclass(frozen=True)
class _Frozen:
    """A weight in int8 [d_in, d_out] with its scales [d_out], in the graph of its builder."""

    b: Builder
    columns: ir.Value
    scales: ir.Value

    @classmethod
    def of(cls, b: Builder, weight: np.ndarray) -> "_Frozen":
        int8, scale = quantized_weight(weight)
        return cls(b, b.constant(np.ascontiguousarray(int8)), b.constant(scale))

    def product(self, x: ir.Value, rows: RowSizes, fineness: Fineness) -> ir.Value:
        """X W as float32."""
        if fineness is Fineness.TENSOR:
            return self._once(self._quantized(x))
        even, sizes = rows.divided(x)
        quantized = self._quantized(even)
        product = self._once(quantized)
        if fineness is Fineness.TWICE:
            rest = self.b.op("Sub", even, self.b.op("DequantizeLinear", *quantized))
            product = self.b.op("Add", product, self._once(self._quantized(rest)))
        return rows.multiplied(product, sizes)

    def _quantized(self, x: ir.Value) -> list[ir.Value]:
        """Bytes, scale and zero point; equal ones are merged when the graph is finished."""
        return self.b.ops("DynamicQuantizeLinear", x, outputs=3)

    def _once(self, quantized: Sequence[ir.Value]) -> ir.Value:
        x, x_scale, x_zero = quantized
        sums = self.b.op("MatMulInteger", x, self.columns, x_zero)
        return self.b.op("Mul", self.b.op("Cast", sums, to=ir.DataType.FLOAT), self.b.op("Mul", x_scale, self.scales))


def quantized_weight(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """W [d_in, d_out] as it is stored: int8 and a scale per column [d_out], float32; W is about their product."""
    return _per_column(weight, np.abs(_pairs(weight)).max(axis=0) / LARGEST_PAIR)


def quantized_rows(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """W [rows, width] as int8 and a scale per row [rows], float32, to be multiplied from both sides."""
    rows = np.maximum(np.abs(_pairs(weight.T)).max(axis=0) / LARGEST_PAIR, np.abs(weight).max(axis=1) / LARGEST)
    rows = np.maximum(rows, np.finfo(np.float32).tiny)
    over = np.abs(_pairs(weight / rows[:, None])).max(axis=1) / LARGEST_PAIR  # of each two rows
    int8, scale = _per_column(weight.T, rows * np.maximum(np.repeat(over, 2)[: len(rows)], 1))
    return int8.T, scale


def _per_column(weight: np.ndarray, least: np.ndarray | float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """W [d_in, d_out] as int8 and one scale per column [d_out], not below ``least``; W is about their product."""
    scale = np.maximum(np.abs(weight).max(axis=0) / LARGEST, np.maximum(least, np.finfo(np.float32).tiny))
    return np.rint(weight / scale).astype(np.int8), scale.astype(np.float32)


def _pairs(weight: np.ndarray) -> np.ndarray:
    """The sums of neighbours along d_in, [d_in / 2, d_out]; CPUs without VNNI add two products in 16 bits (vpmaddubsw).

    Two of opposite signs can't leave that range.
    """
    even = np.concatenate([weight, np.zeros((weight.shape[0] % 2, weight.shape[1]), weight.dtype)])
    pairs: np.ndarray = even[0::2] + even[1::2]
    return pairs


def _replace(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Lets ``value`` stand for the node's output and drops the node."""
    out = node.outputs[0]
    value.shape, value.type = out.shape, out.type
    ir.convenience.replace_all_uses_with(out, value, replace_graph_outputs=True)
    graph.remove(node, safe=True)

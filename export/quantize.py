"""int8 for the frozen matrix products of a graph, forward and backward, in plain ONNX operators.

A product x W with a frozen W [d_in, d_out] becomes DynamicQuantizeLinear, MatMulInteger with an int8 W, and one
multiplication by the scales, one per output column. onnxruntime runs these as one kernel, about 3.5 times as fast as
the float product on a CPU with 8-bit dot products. The forward pass needs W^T of a layer and the backward pass W, so
two int8 copies are stored, half of one float copy.

The rows of a gradient differ in size by orders of magnitude, and one scale serves a whole tensor: each row is divided
by its largest absolute value first and multiplied back after.

Embedding tables, often half of a small model, are stored the same way, one scale per row.
"""

from collections.abc import Container

import numpy as np
import onnx_ir as ir

from export.onnx_builder import Builder
from export.row_sizes import RowSizes

SMALLEST = 128 * 128  # values of W; below, the product is not worth its overhead
LARGEST = 127  # of an int8 weight; symmetric, so that no zero point is needed
LARGEST_PAIR = 127  # of the sum of two neighbours before rounding: 255 * (127 + 1) is still a 16-bit number


def quantize_frozen_products(graph: ir.Graph, gradients: Container[ir.Node] = ()) -> int:
    """Rewrites every MatMul by a frozen weight, in place; ``gradients`` are the nodes whose rows are normalized.

    Returns:
        How many products were rewritten.
    """
    b = Builder(graph, "int8")
    rows = RowSizes(b)
    quantized: dict[ir.Value, list[ir.Value]] = {}
    count = 0
    for node in list(graph):
        weight = frozen_weight(node.inputs[1]) if node.op_type == "MatMul" else None
        x = node.inputs[0]
        if weight is None or x is None:
            continue
        sizes = None
        if node in gradients:
            x, sizes = rows.divided(x)
        if x not in quantized:
            quantized[x] = b.ops("DynamicQuantizeLinear", x, outputs=3)
        product = _product(b, quantized[x], weight)
        _replace(graph, node, product if sizes is None else rows.multiplied(product, sizes))
        count += 1
    graph.sort()
    return count


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
    """The constant float matrix behind a value, at most one Transpose away; None if it is none or a small one."""
    if value is None:
        return None
    producer = value.producer()
    flip = producer is not None and producer.op_type == "Transpose"
    source = producer.inputs[0] if flip and producer is not None else value
    if source is None or not source.is_initializer() or source.const_value is None:
        return None
    tensor = source.const_value
    if source.dtype != ir.DataType.FLOAT or len(tensor.shape) != 2 or tensor.size < SMALLEST:
        return None
    return tensor.numpy().T if flip else tensor.numpy()


def _product(b: Builder, quantized: list[ir.Value], weight: np.ndarray) -> ir.Value:
    """X W from what DynamicQuantizeLinear gave for x, as float32."""
    x, x_scale, x_zero = quantized
    int8, scale = _per_column(weight, np.abs(_pairs(weight)).max(axis=0) / LARGEST_PAIR)
    sums = b.op("MatMulInteger", x, b.constant(np.ascontiguousarray(int8)), x_zero)
    return b.op("Mul", b.op("Cast", sums, to=ir.DataType.FLOAT), b.op("Mul", x_scale, b.constant(scale)))


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

"""Gradient rules of sums and means over axes."""

from collections.abc import Mapping

import onnx_ir as ir

from export.autodiff.backward import Backward, Rule, attribute, constant, dims
from export.autodiff.elementwise import Gradients
from ravan.errors import ExportError


def reduce_sum(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    return b.op("Expand", _kept(b, node, dy), b.op("Shape", node.inputs[0])), None


def reduce_mean(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    x = node.inputs[0]
    sizes = b.op("Gather", b.op("Shape", x), b.ints(axes_of(node)))
    count = b.op("Cast", b.op("ReduceProd", sizes, keepdims=0), to=ir.DataType.FLOAT)
    return b.op("Expand", b.op("Div", _kept(b, node, dy), count), b.op("Shape", x)), None


def _kept(b: Backward, node: ir.Node, dy: ir.Value) -> ir.Value:
    """Dy with the reduced axes as axes of size 1."""
    return dy if attribute(node, "keepdims", 1) else b.op("Unsqueeze", dy, b.ints(axes_of(node)))


def axes_of(node: ir.Node) -> list[int]:
    """The axes that a node reduces, from 0 on.

    Raises:
        ExportError: they are computed.
    """
    assert node.inputs[0] is not None
    rank = len(dims(node.inputs[0]))
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    if axes is None:
        return list(range(rank))
    known = constant(axes)
    if known is None:
        raise ExportError(f"{node.name} reduces over axes that are computed: reduce over fixed axes.")
    return sorted(int(i) % rank for i in known)


RULES: Mapping[str, Rule] = {"ReduceMean": reduce_mean, "ReduceSum": reduce_sum}

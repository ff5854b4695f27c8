"""Gradient rules of operators that move values without changing them."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from export.autodiff.backward import Backward, Rule, attribute, constant, dims
from export.autodiff.elementwise import Gradients
from ravan.errors import ExportError


def reshape(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    """Also of Flatten, Squeeze and Unsqueeze: the input's shape comes back."""
    return b.op("Reshape", dy, b.op("Shape", node.inputs[0])), None


def transpose(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    rank = len(dims(node.outputs[0]))
    order = list(node.attributes.get_ints("perm", range(rank)[::-1]) or ())
    return (b.op("Transpose", dy, perm=[order.index(i) for i in range(rank)]),)


def expand(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    assert node.inputs[0] is not None
    return b.unbroadcast(dy, node.inputs[0], node.outputs[0]), None


def concat(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    axis = attribute(node, "axis", 0)
    sizes = [b.op("Gather", b.op("Shape", x), b.ints([axis])) for x in node.inputs]
    return tuple(b.ops("Split", dy, b.op("Concat", *sizes, axis=0), outputs=len(sizes), axis=axis))


def split(b: Backward, node: ir.Node, dy: ir.Value | None) -> Gradients:
    parts = [b.gradient(out) for out in node.outputs]
    zeros = [b.op("Mul", out, 0.0) if part is None else part for out, part in zip(node.outputs, parts, strict=True)]
    return b.op("Concat", *zeros, axis=attribute(node, "axis", 0)), None


def slice_(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    """Zeros before and after, along each sliced axis; steps of 1 only.

    Pad gets a number for every axis: onnxruntime moves transposes past it without a look at its list of axes.
    """
    x, starts, ends = node.inputs[:3]
    axes = constant(node.inputs[3]) if len(node.inputs) > 3 else np.arange(len(dims(node.outputs[0])))
    steps = constant(node.inputs[4]) if len(node.inputs) > 4 else np.ones(1)
    if axes is None or steps is None or (steps != 1).any():
        raise ExportError(f"{node.name} slices with steps or computed axes: add a rule to export/autodiff.")
    size = b.op("Gather", b.op("Shape", x), b.constant(axes.astype(np.int64)))
    before = b.op("Min", b.op("Where", b.op("Less", starts, b.ints([0])), b.op("Add", starts, size), starts), size)
    reached = b.op("Min", b.op("Where", b.op("Less", ends, b.ints([0])), b.op("Add", ends, size), ends), size)
    after = b.op("Sub", size, reached)
    rank = len(dims(node.outputs[0]))
    sliced = [int(axis) % rank for axis in axes]
    places = b.ints([sliced.index(i) if i in sliced else len(sliced) for i in range(rank)])
    ends_of_all = [b.op("Gather", b.op("Concat", part, b.ints([0]), axis=0), places) for part in (before, after)]
    return b.op("Pad", dy, b.op("Concat", *ends_of_all, axis=0)), None


def gather(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    """Picking one position (``x[:, 0]``): dy there, zero elsewhere. A trained embedding has no rule."""
    x, index = node.inputs
    assert x is not None
    known = constant(index)
    if known is None or known.size != 1:
        raise ExportError(f"{node.name} gathers several positions of a trained value: do not train embeddings.")
    axis = attribute(node, "axis", 0) % len(dims(x))
    size = b.op("Gather", b.op("Shape", x), b.constant(np.array(axis, np.int64)))
    one_hot = b.op(
        "OneHot", b.constant(known.reshape(1).astype(np.int64)), size, b.constant(np.array([0, 1], np.float32))
    )
    trailing = len(dims(x)) - axis - 1
    shaped = b.op("Reshape", one_hot, b.ints([-1] + [1] * trailing))  # [size, 1, ..., 1]
    column = dy if known.ndim else b.op("Unsqueeze", dy, b.ints([axis]))
    return b.op("Mul", column, shaped), None


RULES: Mapping[str, Rule] = {
    "Concat": concat,
    "Expand": expand,
    "Flatten": reshape,
    "Gather": gather,
    "Reshape": reshape,
    "Slice": slice_,
    "Split": split,
    "Squeeze": reshape,
    "Transpose": transpose,
    "Unsqueeze": reshape,
}

"""Gradient rules of softmax and layer normalization."""

from collections.abc import Mapping

import onnx_ir as ir

from export.autodiff.backward import Backward, Rule, attribute, dims
from export.autodiff.elementwise import Gradients
from ravan.errors import ExportError


def softmax(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    """Y (dy - sum(y dy))."""
    y = node.outputs[0]
    axis = b.ints([attribute(node, "axis", -1)])
    return (b.op("Mul", y, b.op("Sub", dy, b.op("ReduceSum", b.op("Mul", dy, y), axis, keepdims=1))),)


def log_softmax(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    """Dy - exp(y) sum(dy)."""
    axis = b.ints([attribute(node, "axis", -1)])
    total = b.op("ReduceSum", dy, axis, keepdims=1)
    return (b.op("Sub", dy, b.op("Mul", b.op("Exp", node.outputs[0]), total)),)


def layer_norm(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    """Over the last axis, from the mean and inverse deviation that the forward node can give (arXiv 1607.06450)."""
    x, scale = node.inputs[:2]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    assert x is not None
    if attribute(node, "axis", -1) not in (-1, len(dims(x)) - 1):
        raise ExportError(f"{node.name} normalizes over more than the last axis: add a rule to export/autodiff.")
    mean, inverse = _statistics(node)
    rest = b.ints(range(len(dims(x)) - 1))
    d_scale = None
    if b.wants(scale):
        normal = b.op("Mul", b.op("Sub", x, mean), inverse)
        d_scale = b.op("ReduceSum", b.op("Mul", dy, normal), rest, keepdims=0)
    return (
        _through_layer_norm(b, x, b.op("Mul", dy, scale), mean, inverse) if b.wants(x) else None,
        d_scale,
        b.op("ReduceSum", dy, rest, keepdims=0) if b.wants(bias) else None,
    )


def _through_layer_norm(b: Backward, x: ir.Value, g: ir.Value, mean: ir.Value, inverse: ir.Value) -> ir.Value:
    """Dx = inverse (g - mean(g) - n mean(g n)) with n = (x - mean) inverse.

    Written out as inverse g - c x - (inverse mean(g) - c mean) with one number c per row: three passes fewer.
    """
    last = b.ints([-1])
    mean_g = b.op("ReduceMean", g, last, keepdims=1)
    covariance = b.op("Sub", b.op("ReduceMean", b.op("Mul", g, x), last, keepdims=1), b.op("Mul", mean, mean_g))
    c = b.op("Mul", b.op("Mul", b.op("Mul", inverse, inverse), inverse), covariance)
    centre = b.op("Sub", b.op("Mul", inverse, mean_g), b.op("Mul", c, mean))
    return b.op("Sub", b.op("Sub", b.op("Mul", g, inverse), b.op("Mul", x, c)), centre)


def _statistics(node: ir.Node) -> tuple[ir.Value, ir.Value]:
    """The node's optional outputs mean and inverse standard deviation, asked for if they are not yet."""
    node.resize_outputs(3)
    for out, suffix in zip(node.outputs[1:], ("mean", "inverse_deviation"), strict=True):
        out.name = out.name or f"{node.outputs[0].name}_{suffix}"
        out.dtype = ir.DataType.FLOAT
    return node.outputs[1], node.outputs[2]


RULES: Mapping[str, Rule] = {"LayerNormalization": layer_norm, "LogSoftmax": log_softmax, "Softmax": softmax}

"""Gradient rules of operators that work value by value."""

import math
from collections.abc import Mapping

import onnx_ir as ir

from export.autodiff.backward import Backward, Rule, constant

Gradients = tuple[ir.Value | None, ...]


def add(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    out = node.outputs[0]
    return tuple(b.unbroadcast(dy, x, out) if b.wants(x) else None for x in _inputs(node))


def sub(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    x, y = _inputs(node)
    out = node.outputs[0]
    return (
        b.unbroadcast(dy, x, out) if b.wants(x) else None,
        b.op("Neg", b.unbroadcast(dy, y, out)) if b.wants(y) else None,
    )


def mul(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    x, y = _inputs(node)
    out = node.outputs[0]
    return (
        b.unbroadcast(b.op("Mul", dy, y), x, out) if b.wants(x) else None,
        b.unbroadcast(b.op("Mul", dy, x), y, out) if b.wants(y) else None,
    )


def div(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    x, y = _inputs(node)
    out = node.outputs[0]
    along = b.op("Div", dy, y)
    return (
        b.unbroadcast(along, x, out) if b.wants(x) else None,
        b.unbroadcast(b.op("Neg", b.op("Mul", along, out)), y, out) if b.wants(y) else None,
    )


def power(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    """With a constant exponent: n x^(n-1) dy; onnxruntime's Pow is slow with an exponent of 1."""
    x, n = _inputs(node)
    known = constant(n)
    lower = x if known is not None and (known == 2).all() else b.op("Pow", x, b.op("Sub", n, 1.0))
    return b.unbroadcast(b.op("Mul", dy, b.op("Mul", n, lower)), x, node.outputs[0]), None


def where(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    condition, x, y = _inputs(node)
    out = node.outputs[0]
    return (
        None,
        b.unbroadcast(b.op("Where", condition, dy, 0.0), x, out) if b.wants(x) else None,
        b.unbroadcast(b.op("Where", condition, 0.0, dy), y, out) if b.wants(y) else None,
    )


def identity(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    return (dy,)


def neg(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    return (b.op("Neg", dy),)


def exp(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    return (b.op("Mul", dy, node.outputs[0]),)


def log(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    return (b.op("Div", dy, node.inputs[0]),)


def sqrt(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    return (b.op("Div", b.op("Mul", dy, 0.5), node.outputs[0]),)


def reciprocal(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    y = node.outputs[0]
    return (b.op("Neg", b.op("Mul", dy, b.op("Mul", y, y))),)


def erf(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    x = node.inputs[0]
    bell = b.op("Exp", b.op("Neg", b.op("Mul", x, x)))
    return (b.op("Mul", dy, b.op("Mul", bell, 2 / math.sqrt(math.pi))),)


def tanh(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    y = node.outputs[0]
    return (b.op("Mul", dy, b.op("Sub", 1.0, b.op("Mul", y, y))),)


def sigmoid(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    y = node.outputs[0]
    return (b.op("Mul", dy, b.op("Mul", y, b.op("Sub", 1.0, y))),)


def relu(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    return (b.op("Where", b.op("Greater", node.outputs[0], 0.0), dy, 0.0),)


def absolute(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    return (b.op("Mul", dy, b.op("Sign", node.inputs[0])),)


def gelu(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    """Both forms of opset 20: x Phi(x) by the error function, or its tanh approximation (arXiv 1606.08415)."""
    x = node.inputs[0]
    if node.attributes.get_string("approximate", "none") == "tanh":
        return (b.op("Mul", dy, _gelu_tanh_slope(b, x, node.outputs[0])),)
    t = b.op("Mul", x, math.sqrt(0.5))
    cdf = b.op("HardSigmoid", b.op("Erf", t), alpha=0.5, beta=0.5)  # (erf + 1) / 2 in one pass
    bend = b.op("Mul", t, b.op("Exp", b.op("Sub", -0.5 * math.log(math.pi), b.op("Mul", t, t))))  # x times the density
    return (b.op("Mul", dy, b.op("Add", cdf, bend)),)


def _gelu_tanh_slope(b: Backward, x: ir.Value | None, y: ir.Value) -> ir.Value:
    """Of y = x sigmoid(u), the same function: sigmoid + y (1 - sigmoid) u'."""
    scale = 2 * math.sqrt(2 / math.pi)
    square = b.op("Mul", x, x)
    gate = b.op("Sigmoid", b.op("Mul", x, b.op("Add", b.op("Mul", square, 0.044715 * scale), scale)))
    inner_slope = b.op("Add", b.op("Mul", square, 3 * 0.044715 * scale), scale)
    return b.op("Add", b.op("Mul", b.op("Mul", y, b.op("Sub", 1.0, gate)), inner_slope), gate)


def _inputs(node: ir.Node) -> list[ir.Value]:
    return [x for x in node.inputs if x is not None]


RULES: Mapping[str, Rule] = {
    "Abs": absolute,
    "Add": add,
    "Cast": identity,
    "Div": div,
    "Erf": erf,
    "Exp": exp,
    "Gelu": gelu,
    "Identity": identity,
    "Log": log,
    "Mul": mul,
    "Neg": neg,
    "Pow": power,
    "Reciprocal": reciprocal,
    "Relu": relu,
    "Sigmoid": sigmoid,
    "Sqrt": sqrt,
    "Sub": sub,
    "Tanh": tanh,
    "Where": where,
}

"""Gradient rules of small groups of operators whose derivative in closed form is shorter than their rules in a row.

A pattern is recognized at the group's last node and gives the gradients at the group's inputs. The nodes within are
then passed by; if a value within is also used elsewhere, its own rule handles that use.
"""

from collections.abc import Callable, Mapping

import onnx_ir as ir

from export.autodiff.backward import Backward, Rule, constant, dims
from export.autodiff.elementwise import Gradients
from export.autodiff.linear import flip

Pattern = Callable[[Backward, ir.Node, ir.Value], Mapping[ir.Value, ir.Value] | None]
"""(backward, last node, dL/d its output) -> dL/d each input of the group, or None if this is no such group."""


def recognizing(patterns: tuple[Pattern, ...], otherwise: Rule) -> Rule:
    """A rule that tries the patterns first."""

    def rule(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
        for pattern in patterns:
            found = pattern(b, node, dy)
            if found is not None:
                for value, gradient in found.items():
                    b.accumulate(value, gradient)
                return ()
        return tuple(otherwise(b, node, dy))

    return rule


def silu(b: Backward, node: ir.Node, dy: ir.Value) -> Mapping[ir.Value, ir.Value] | None:
    """Y = x sigmoid(x) has the slope sigmoid + y (1 - sigmoid)."""
    for x, gate in (node.inputs, reversed(node.inputs)):
        if x is not None and x is _source(gate, "Sigmoid"):
            slope = b.op("Add", b.op("Mul", node.outputs[0], b.op("Sub", 1.0, gate)), gate)
            return {x: b.op("Mul", dy, slope)}
    return None


def rms_norm(b: Backward, node: ir.Node, dy: ir.Value) -> Mapping[ir.Value, ir.Value] | None:
    """Y = x r with r = 1 / sqrt(mean(x^2) + eps): r dy - x r^3 mean(x dy) (arXiv 1910.07467)."""
    for x, r in (node.inputs, reversed(node.inputs)):
        if x is not None and x is _normalized(r):
            mean = b.op("ReduceMean", b.op("Mul", dy, x), b.ints([-1]), keepdims=1)
            cube = b.op("Mul", b.op("Mul", r, r), r)
            return {x: b.op("Sub", b.op("Mul", dy, r), b.op("Mul", x, b.op("Mul", cube, mean)))}
    return None


def attention(b: Backward, node: ir.Node, dy: ir.Value) -> Mapping[ir.Value, ir.Value] | None:
    """Y = P V with P = softmax(z): a row of P dP has the sum of a row of y dy, which is shorter (arXiv 2205.14135)."""
    p, v = node.inputs
    z = _source(p, "Softmax")
    if p is None or v is None or z is None or not b.wants(z) or dims(p)[:-2] != dims(v)[:-2] or not _over_last(p):
        return None
    rows = b.op("ReduceSum", b.op("Mul", dy, node.outputs[0]), b.ints([-1]), keepdims=1)
    found = {z: b.op("Mul", p, b.op("Sub", b.op("MatMul", dy, flip(b, v)), rows))}
    if b.wants(v):
        found[v] = b.op("MatMul", flip(b, p), dy)
    return found


def _normalized(r: ir.Value | None) -> ir.Value | None:
    """The x of r = 1 / sqrt(mean(x^2) + eps), the mean over the last axis."""
    shifted = _source(_source(r, "Reciprocal"), "Sqrt")
    mean = _source(shifted, "Add")
    square = _source(mean, "ReduceMean")
    if mean is None or square is None or dims(mean) != [*dims(square)[:-1], 1]:
        return None
    producer = square.producer()
    exponent = constant(producer.inputs[1]) if producer is not None and producer.op_type == "Pow" else None
    return _source(square, "Pow") if exponent is not None and (exponent == 2).all() else None


def _over_last(p: ir.Value) -> bool:
    node = p.producer()
    return node is not None and node.attributes.get_int("axis", -1) in (-1, len(dims(p)) - 1)


def _source(value: ir.Value | None, op_type: str) -> ir.Value | None:
    """The first input of the operator that a value comes from, None if that is another operator."""
    node = value.producer() if value is not None else None
    return node.inputs[0] if node is not None and node.op_type == op_type else None

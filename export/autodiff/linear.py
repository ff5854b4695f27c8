"""Gradient rules of matrix products."""

from collections.abc import Mapping

import onnx_ir as ir

from export.autodiff.backward import Backward, Rule, attribute, dims
from export.autodiff.elementwise import Gradients


def matmul(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    """DX = dY Y^T and dY = X^T dY, batched as numpy.matmul does."""
    x, y = node.inputs
    assert x is not None
    assert y is not None
    out = node.outputs[0]
    dx = b.unbroadcast(b.op("MatMul", dy, flip(b, y)), x, _like(dy, x, out)) if b.wants(x) else None
    if not b.wants(y):
        return dx, None
    if len(dims(y)) == 2 and len(dims(x)) > 2:  # one matrix for all rows: a single product over the flattened rows
        rows, back = (b.op("Reshape", v, b.ints([-1, _width(v_dims)])) for v, v_dims in ((x, dims(x)), (dy, dims(out))))
        return dx, b.op("MatMul", b.op("Transpose", rows, perm=[1, 0]), back)
    return dx, b.unbroadcast(b.op("MatMul", flip(b, x), dy), y, _like(dy, y, out))


def gemm(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    """Y = alpha A' B' + beta C, where a dash stands for an optional transpose."""
    x, y = node.inputs[:2]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    flip_x, flip_y = attribute(node, "transA", 0), attribute(node, "transB", 0)
    alpha, beta = node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0)

    def product(left: ir.Value | None, right: ir.Value | None, flip_left: int, flip_right: int) -> ir.Value:
        return b.op("Gemm", left, right, transA=flip_left, transB=flip_right, alpha=alpha)

    dx = dw = dc = None
    if b.wants(x):
        dx = product(y, dy, flip_y, 1) if flip_x else product(dy, y, 0, 1 - flip_y)
    if b.wants(y):
        dw = product(dy, x, 1, flip_x) if flip_y else product(x, dy, 1 - flip_x, 0)
    if bias is not None and b.wants(bias):
        dc = b.unbroadcast(dy if beta == 1.0 else b.op("Mul", dy, beta), bias, node.outputs[0])
    return dx, dw, dc


def flip(b: Backward, x: ir.Value) -> ir.Value:
    """The last two axes swapped.

    onnxruntime's products read a swapped operand in place, but it merges the swap with a permutation before it into
    one more copy of x: a reshape to the same shape, which costs nothing, keeps the two apart.
    """
    swap = _swap(len(dims(x)))
    producer = x.producer()
    if producer is not None and producer.op_type == "Transpose" and _order(producer) != swap:
        x = b.op("Reshape", x, b.ints([0] * len(swap)))
    return b.op("Transpose", x, perm=swap)


def _order(transpose: ir.Node) -> list[int]:
    return list(transpose.attributes.get_ints("perm") or ())


def _swap(rank: int) -> list[int]:
    return [*range(rank - 2), rank - 1, rank - 2]


def _width(shape: list[int | str | None]) -> int:
    width = shape[-1]
    assert isinstance(width, int), "the last axis of a layer's input has a fixed width"
    return width


def _like(dy: ir.Value, x: ir.Value, out: ir.Value) -> ir.Value:
    """A stand-in with the shape that a batched product for dL/dx has: out's batch axes, x's last two."""
    shape = [*dims(out)[:-2], *dims(x)[-2:]]
    return ir.Value(name=dy.name, shape=ir.Shape(shape))


RULES: Mapping[str, Rule] = {"Gemm": gemm, "MatMul": matmul}

"""Gradients whose rows are brought to one size before int8, and what becomes of the sizes after."""

import numpy as np
import onnx_ir as ir

from export.onnx_builder import Builder

LEAST = np.array(1e-20, np.float32)  # the size of a row of zeros


class RowSizes:
    """Divides gradients by the sizes of their rows, and remembers which values are products with such sizes.

    What follows a product is mostly linear in its rows, so their sizes need not be multiplied back first: they pass by
    and are multiplied in later, where a tensor is as narrow as a model's hidden state.
    """

    def __init__(self, b: Builder) -> None:
        self._b = b
        self._factors: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
        self._divided: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}

    def divided(self, x: ir.Value) -> tuple[ir.Value, ir.Value]:
        """X with rows of about one size, and the sizes [..., 1]: x is their product."""
        if x not in self._divided:
            self._divided[x] = self._divide(x)
        return self._divided[x]

    def multiplied(self, value: ir.Value, sizes: ir.Value) -> ir.Value:
        """The value with its rows' sizes multiplied back."""
        out = self._b.op("Mul", value, sizes)
        self._factors[out] = value, sizes
        return out

    def _divide(self, x: ir.Value) -> tuple[ir.Value, ir.Value]:
        value, sizes = self._apart(x) or (x, None)
        producer = x.producer()
        if sizes is not None and producer is not None and producer.op_type == "MatMul":
            return value, sizes  # one matrix for all rows leaves them alike
        own = self._largest(value)
        return self._b.op("Div", value, own), own if sizes is None else self._b.op("Mul", own, sizes)

    def _apart(self, x: ir.Value) -> tuple[ir.Value, ir.Value] | None:
        """X before its rows' sizes were multiplied in, and the sizes, if it comes from such a value by one factor."""
        if x in self._factors:
            return self._factors[x]
        node = x.producer()
        if node is None or node.op_type not in ("Mul", "MatMul"):
            return None
        left, right = node.inputs
        for y, factor in ((left, right), (right, left))[: 2 if node.op_type == "Mul" else 1]:
            found = self._apart(y) if y is not None else None
            if found is not None:
                return self._b.op(node.op_type, found[0], factor), found[1]
        return None

    def _largest(self, x: ir.Value) -> ir.Value:
        """The largest absolute value of every row, [..., 1], never zero; without writing |x|."""
        last = self._b.ints([-1])
        highest = self._b.op("ReduceMax", x, last, keepdims=1)
        lowest = self._b.op("Neg", self._b.op("ReduceMin", x, last, keepdims=1))
        return self._b.op("Max", highest, lowest, LEAST)

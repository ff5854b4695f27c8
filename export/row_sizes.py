"""Gradients whose rows are brought to one size before int8, and what becomes of the sizes after."""

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from export.onnx_builder import Builder

LEAST = np.array(1e-20, np.float32)  # the size of a row of zeros
GELU_DEPTH = 0.17  # gelu(x) is never below -0.17
EVEN = "even"
"""In a value's ``meta``: a factor of about the same size everywhere, as the slope of an activation function."""


@dataclass(frozen=True)
class _Apart:
    """A gradient as ``value`` times ``sizes`` [..., 1]; even if the rows of ``value`` are still of about one size."""

    value: ir.Value
    sizes: ir.Value
    even: bool = True


class RowSizes:
    """Divides gradients by the sizes of their rows, and remembers which values are products with such sizes.

    What follows a product is mostly linear in its rows, so their sizes need not be multiplied back first: they pass by
    and are multiplied in later, where a tensor is as narrow as a model's hidden state.
    """

    def __init__(self, b: Builder) -> None:
        self._b = b
        self._factors: dict[ir.Value, _Apart] = {}
        self._divided: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}

    def divided(self, x: ir.Value) -> tuple[ir.Value, ir.Value]:
        """X with rows of about one size, and the sizes [..., 1]: x is their product."""
        if x not in self._divided:
            self._divided[x] = self._divide(x)
        return self._divided[x]

    def multiplied(self, value: ir.Value, sizes: ir.Value) -> ir.Value:
        """The value with its rows' sizes multiplied back."""
        out = self._b.op("Mul", value, sizes)
        self._factors[out] = _Apart(value, sizes)
        return out

    def _divide(self, x: ir.Value) -> tuple[ir.Value, ir.Value]:
        apart = self._apart(x)
        if apart is not None and apart.even and apart.value is not x:
            return apart.value, apart.sizes
        value = x if apart is None else apart.value
        own = self._range(value)
        return self._b.op("Div", value, own), own if apart is None else self._b.op("Mul", own, apart.sizes)

    def _apart(self, x: ir.Value) -> _Apart | None:
        """X before its rows' sizes were multiplied in, if it comes from such a value by factors."""
        if x in self._factors:
            return self._factors[x]
        node = x.producer()
        if node is None or node.op_type not in ("Mul", "MatMul"):
            return None
        left, right = node.inputs
        for y, factor in ((left, right), (right, left))[: 2 if node.op_type == "Mul" else 1]:
            found = self._apart(y) if y is not None else None
            if found is not None and factor is not None:
                return self._past(node, found, factor)
        return None

    def _past(self, node: ir.Node, found: _Apart, factor: ir.Value) -> _Apart:
        """What a product with one more factor makes of it; one number goes with the sizes, which are fewer."""
        if node.op_type == "Mul" and _is_number(factor):
            return replace(found, sizes=self._b.op("Mul", found.sizes, factor))
        even = found.even and (node.op_type == "MatMul" or EVEN in factor.meta)  # one matrix leaves all rows alike
        return _Apart(self._b.op(node.op_type, found.value, factor), found.sizes, even)

    def _range(self, x: ir.Value) -> ir.Value:
        """Highest less lowest value of every row, [..., 1], never zero; without writing |x|."""
        last, producer = self._b.ints([-1]), x.producer()
        if producer is not None and producer.op_type == "Gelu":  # whose lowest value needs no search
            return self._b.op("Add", self._b.op("Relu", self._b.op("ReduceMax", x, last, keepdims=1)), GELU_DEPTH)
        highest, lowest = (self._b.op(kind, x, last, keepdims=1) for kind in ("ReduceMax", "ReduceMin"))
        return self._b.op("Add", self._b.op("Sub", highest, lowest), LEAST)


def _is_number(value: ir.Value) -> bool:
    return value.is_initializer() and value.const_value is not None and value.const_value.size == 1

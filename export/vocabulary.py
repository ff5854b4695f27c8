"""The end of a language model: hidden states times a frozen vocabulary, and what a model does to the logits then."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from export.autodiff.backward import constant, dims
from export.onnx_builder import Builder
from export.quantize import frozen_matrix, quantized_rows
from ravan.bundle import Precision


@dataclass(frozen=True)
class Head:
    """Logits z = scale h W^T, or cap tanh(z) (as Gemma 2, arXiv 2408.00118).

    Attributes:
        hidden: h [batch, length, width].
        weight: the frozen W [vocabulary, width].
        scale: a factor, mostly 1.
        cap: the largest logit, None if there is none.
    """

    hidden: ir.Value
    weight: np.ndarray
    scale: float
    cap: float | None


def find_head(logits: ir.Value) -> Head | None:
    """The head that logits [batch, length, vocabulary] come from; None if they come about in another way."""
    value, factor, cap = logits, 1.0, None
    if len(dims(logits)) != 3:
        return None
    while (node := value.producer()) is not None and node.inputs[0] is not None:
        by = constant(node.inputs[1]) if len(node.inputs) == 2 else None
        if node.op_type == "MatMul":
            weight = frozen_matrix(node.inputs[1])
            return None if weight is None else Head(node.inputs[0], np.ascontiguousarray(weight.T), factor, cap)
        if node.op_type == "Tanh" and cap is None:
            cap, factor = factor, 1.0
        elif node.op_type in ("Mul", "Div") and by is not None and by.size == 1 and by > 0:
            factor *= float(by.item()) if node.op_type == "Mul" else 1 / float(by.item())
        else:
            return None
        value = node.inputs[0]
    return None


class Vocabulary:
    """A head's frozen matrix W [vocabulary, width] as float32, or as int8 with a scale per row."""

    def __init__(self, b: Builder, head: Head, precision: Precision) -> None:
        weight = head.weight
        self._factor, self._cap = head.scale, head.cap
        self._scale: ir.Value | None = None
        if precision is Precision.INT8:
            weight, scale = quantized_rows(weight)
            self._scale = b.constant(scale)  # [vocabulary]
        self._rows = b.constant(np.ascontiguousarray(weight))  # [vocabulary, width]
        self._columns = b.constant(np.ascontiguousarray(weight.T))  # [width, vocabulary]

    def logits(self, b: Builder, hidden: ir.Value) -> tuple[ir.Value, ir.Value | None]:
        """Of rows [rows, width]: the logits [rows, vocabulary], and their slope by z where it is not 1."""
        z = self._product(b, hidden if self._factor == 1 else b.op("Mul", hidden, self._factor))
        if self._cap is None:
            return z, None
        part = b.op("Tanh", z)
        return b.op("Mul", part, self._cap), b.op("Mul", b.op("Sub", 1.0, b.op("Mul", part, part)), self._cap)

    def gradient(self, b: Builder, p: ir.Value, slope: ir.Value | None, label: ir.Value) -> ir.Value:
        """Of the cross entropy at each row by the row, [rows, width]: (p - one hot) slope W scale."""
        own = self._of(b, label)
        if slope is not None:
            p = b.op("Mul", p, slope)
            own = b.op("Mul", own, b.op("GatherElements", slope, b.op("Unsqueeze", label, b.ints([-1])), axis=-1))
        gradient = b.op("Sub", self._expected(b, p), own)
        return gradient if self._factor == 1 else b.op("Mul", gradient, self._factor)

    def _product(self, b: Builder, hidden: ir.Value) -> ir.Value:
        """H W^T, [rows, vocabulary]."""
        if self._scale is None:
            return b.op("MatMul", hidden, self._columns)
        largest = b.op("ReduceMax", b.op("Abs", hidden), b.ints([-1]), keepdims=1)
        product = _int8_product(b, b.op("Div", hidden, largest), self._columns, self._scale)
        return b.op("Mul", product, largest)

    def _expected(self, b: Builder, p: ir.Value) -> ir.Value:
        """P W, [rows, width], for p [rows, vocabulary] that are probabilities, or not far from it.

        The scales of W's rows join p before it is quantized, and each row is divided by its largest value. What one
        quantization leaves over is quantized again: the many small probabilities add up to a part of the gradient that
        the layers below magnify.
        """
        if self._scale is None:
            return b.op("MatMul", p, self._rows)
        scaled = b.op("Mul", p, self._scale)
        largest = b.op("ReduceMax", scaled, b.ints([-1]), keepdims=1)
        x = b.op("Div", scaled, largest)
        quantized, scale, zero = b.ops("DynamicQuantizeLinear", x, outputs=3)
        rest = b.op("Sub", x, b.op("DequantizeLinear", quantized, scale, zero))
        # each with its own scale first: onnxruntime takes what is multiplied with a scale for the scales of columns
        first = b.op("Mul", _sums(b, quantized, self._rows, zero), scale)
        return b.op("Mul", b.op("Add", first, _int8_product(b, rest, self._rows)), largest)

    def _of(self, b: Builder, token_ids: ir.Value) -> ir.Value:
        """W[token_ids], [rows, width]."""
        rows = b.op("Gather", self._rows, token_ids, axis=0)
        if self._scale is None:
            return rows
        scale = b.op("Unsqueeze", b.op("Gather", self._scale, token_ids, axis=0), b.ints([-1]))
        return b.op("Mul", b.op("Cast", rows, to=ir.DataType.FLOAT), scale)


def _int8_product(b: Builder, x: ir.Value, weight: ir.Value, columns: ir.Value | None = None) -> ir.Value:
    """X times an int8 weight with a scale per column, x [rows, k] quantized as it is."""
    quantized, scale, zero = b.ops("DynamicQuantizeLinear", x, outputs=3)
    return b.op("Mul", _sums(b, quantized, weight, zero), scale if columns is None else b.op("Mul", scale, columns))


def _sums(b: Builder, quantized: ir.Value, weight: ir.Value, zero: ir.Value) -> ir.Value:
    """The integer sums as floats."""
    return b.op("Cast", b.op("MatMulInteger", quantized, weight, zero), to=ir.DataType.FLOAT)

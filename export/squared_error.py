"""Mean squared error at the end of a graph: outputs and labels are float32 of one shape, [batch, ...]."""

import math

import numpy as np
import onnx_ir as ir

from export.autodiff.backward import dims
from export.losses import EvalLoss, TrainLoss
from export.onnx_builder import Builder


def train_squared_error(b: Builder, outputs: ir.Value, labels: ir.Value) -> TrainLoss:
    """The mean over all values, and its gradient 2 (outputs - labels) / values."""
    off = b.op("Sub", outputs, labels)
    value, weight, values = _mean(b, off, outputs)
    return TrainLoss(value, weight, outputs, b.op("Mul", off, b.op("Div", 2.0, values)))


def eval_squared_error(b: Builder, outputs: ir.Value, labels: ir.Value) -> EvalLoss:
    """The mean over all values; no prediction is right or wrong."""
    value, weight, _ = _mean(b, b.op("Sub", outputs, labels), outputs)
    return EvalLoss(value, weight, None)


def _mean(b: Builder, off: ir.Value, outputs: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
    """The mean square, its weight, and the number of values.

    The weight is the number of examples, or of positions if more than the batch may differ in size: what parts of a
    mini-batch add up by.
    """
    values = b.op("Cast", b.op("Size", outputs), to=ir.DataType.FLOAT)
    fixed = math.prod(d for d in dims(outputs) if isinstance(d, int))
    weight = b.op("Div", values, b.constant(np.array(fixed, np.float32)))
    return b.op("Div", b.op("ReduceSum", b.op("Mul", off, off), keepdims=0), values), weight, values

"""The loss at the end of a graph, with its gradient at the logits in closed form."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from export.autodiff.backward import dims
from export.onnx_builder import Builder


@dataclass(frozen=True)
class Loss:
    """A scalar loss, the weight it stands for (number of examples), and dL/d logits, the seed of the backward pass."""

    value: ir.Value
    weight: ir.Value
    seed: ir.Value


def cross_entropy(b: Builder, logits: ir.Value, labels: ir.Value) -> Loss:
    """Mean cross entropy of logits [batch, classes] and labels [batch]; its gradient is (softmax - one hot) / batch."""
    log_p, one_hot = b.op("LogSoftmax", logits, axis=-1), _one_hot(b, logits, labels)
    weight = _batch_size(b, labels)
    picked = b.op("ReduceSum", b.op("Mul", log_p, one_hot), keepdims=0)
    loss = b.op("Neg", b.op("Div", picked, weight))
    return Loss(loss, weight, b.op("Div", b.op("Sub", b.op("Exp", log_p), one_hot), weight))


def correct_predictions(b: Builder, logits: ir.Value, labels: ir.Value) -> ir.Value:
    """For how many examples the largest of logits [batch, classes] is at the label, a float scalar."""
    hits = b.op("Equal", b.op("ArgMax", logits, axis=-1, keepdims=0), labels)
    return b.op("ReduceSum", b.op("Cast", hits, to=ir.DataType.FLOAT), keepdims=0)


def _one_hot(b: Builder, logits: ir.Value, labels: ir.Value) -> ir.Value:
    classes = dims(logits)[-1]
    assert isinstance(classes, int), "the number of classes is fixed"
    return b.op("OneHot", labels, b.constant(np.array(classes, np.int64)), b.constant(np.array([0, 1], np.float32)))


def _batch_size(b: Builder, labels: ir.Value) -> ir.Value:
    return b.op("ReduceSum", b.op("Cast", b.op("Shape", labels), to=ir.DataType.FLOAT), keepdims=0)

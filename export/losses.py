"""The loss at the end of a graph: with its gradient for training, with a count of correct predictions for evaluation.

Classifiers: logits [batch, classes] and labels [batch]. Language models: logits [batch, length, vocabulary] and labels
[batch, length], see ``export.language_loss``.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from export.autodiff.backward import dims
from export.onnx_builder import Builder


@dataclass(frozen=True)
class TrainLoss:
    """A scalar mean loss, and where the backward pass begins.

    Attributes:
        value: the mean.
        weight: the number of examples or tokens behind it.
        at: the value that ``gradient`` is of: the logits, or what they are computed from.
        gradient: dL/d at.
    """

    value: ir.Value
    weight: ir.Value
    at: ir.Value
    gradient: ir.Value


@dataclass(frozen=True)
class EvalLoss:
    """A scalar mean loss, the number of examples or tokens behind it, and for how many the prediction is right."""

    value: ir.Value
    weight: ir.Value
    correct: ir.Value


def train_loss(b: Builder, logits: ir.Value, labels: ir.Value) -> TrainLoss:
    """Mean cross entropy of a classifier; the gradient is (softmax - one hot) / batch."""
    log_p, one_hot = b.op("LogSoftmax", logits, axis=-1), _one_hot(b, logits, labels)
    value, weight = _mean(b, log_p, one_hot, labels)
    return TrainLoss(value, weight, logits, b.op("Div", b.op("Sub", b.op("Exp", log_p), one_hot), weight))


def eval_loss(b: Builder, logits: ir.Value, labels: ir.Value) -> EvalLoss:
    """Mean cross entropy of a classifier, and how often the largest logit is at the label."""
    value, weight = _mean(b, b.op("LogSoftmax", logits, axis=-1), _one_hot(b, logits, labels), labels)
    hits = b.op("Equal", b.op("ArgMax", logits, axis=-1, keepdims=0), labels)
    return EvalLoss(value, weight, b.op("ReduceSum", b.op("Cast", hits, to=ir.DataType.FLOAT), keepdims=0))


def _mean(b: Builder, log_p: ir.Value, one_hot: ir.Value, labels: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The mean loss and the batch size."""
    weight = b.op("ReduceSum", b.op("Cast", b.op("Shape", labels), to=ir.DataType.FLOAT), keepdims=0)
    picked = b.op("ReduceSum", b.op("Mul", log_p, one_hot), keepdims=0)
    return b.op("Neg", b.op("Div", picked, weight)), weight


def _one_hot(b: Builder, logits: ir.Value, labels: ir.Value) -> ir.Value:
    classes = dims(logits)[-1]
    assert isinstance(classes, int), "the number of classes is fixed"
    return b.op("OneHot", labels, b.constant(np.array(classes, np.int64)), b.constant(np.array([0, 1], np.float32)))

"""The loss at the end of a graph: with its gradient for training, with a count of correct predictions for evaluation.

Logits [..., classes] and labels [...], of which those that are ``IGNORED`` count for nothing. Where the classes are a
language model's vocabulary, ``export.language_loss`` does the same without holding the logits.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from export.autodiff.backward import dims
from export.onnx_builder import Builder
from ravan.runtime.names import IGNORED


@dataclass(frozen=True)
class TrainLoss:
    """A scalar mean loss, and where the backward pass begins.

    Attributes:
        value: the mean.
        weight: the number of labels behind it.
        at: the value that ``gradient`` is of: the logits, or what they are computed from.
        gradient: dL/d at.
    """

    value: ir.Value
    weight: ir.Value
    at: ir.Value
    gradient: ir.Value


@dataclass(frozen=True)
class EvalLoss:
    """A scalar mean loss, the number of labels behind it, and for how many the prediction is right.

    ``correct`` is None where no prediction is right or wrong. ``exact``, where an example has many labels, is the
    number of examples of which all are predicted. ``following`` are the logits at each row's last label
    [batch, classes], where the graph gives no others.
    """

    value: ir.Value
    weight: ir.Value
    correct: ir.Value | None
    exact: ir.Value | None = None
    following: ir.Value | None = None


def train_loss(b: Builder, logits: ir.Value, labels: ir.Value) -> TrainLoss:
    """Mean cross entropy; the gradient is (softmax - one hot) / count, and 0 where a label is ignored."""
    log_p, one_hot = b.op("LogSoftmax", logits, axis=-1), _one_hot(b, logits, labels)
    counted = _counted(b, labels)
    value, weight = _mean(b, log_p, one_hot, counted)
    slope = b.op("Sub", b.op("Exp", log_p), one_hot)
    if len(dims(labels)) > 1:  # an example has its label always, a token may have none
        slope = b.op("Mul", slope, b.op("Unsqueeze", counted, b.ints([-1])))
    return TrainLoss(value, weight, logits, b.op("Div", slope, weight))


def eval_loss(b: Builder, logits: ir.Value, labels: ir.Value) -> EvalLoss:
    """Mean cross entropy, and how often the largest logit is at the label."""
    log_p, one_hot = b.op("LogSoftmax", logits, axis=-1), _one_hot(b, logits, labels)
    counted = _counted(b, labels)
    value, weight = _mean(b, log_p, one_hot, counted)
    hits = b.op("Equal", b.op("ArgMax", logits, axis=-1, keepdims=0), labels)
    hits = b.op("Cast", hits, to=ir.DataType.FLOAT)
    exact = rows_without_miss(b, b.op("Sub", counted, hits), len(dims(labels))) if len(dims(labels)) > 1 else None
    return EvalLoss(value, weight, b.op("ReduceSum", hits, keepdims=0), exact)


def rows_without_miss(b: Builder, misses: ir.Value, rank: int) -> ir.Value:
    """The number of examples without a miss, from misses [batch, ...] that are 1 where a label is not predicted."""
    worst = b.op("ReduceMax", misses, b.ints(range(1, rank)), keepdims=0)
    return b.op("ReduceSum", b.op("Sub", 1.0, worst), keepdims=0)


def _counted(b: Builder, labels: ir.Value) -> ir.Value:
    """1.0 where there is a label, 0.0 where it is ignored."""
    ignored = b.op("Equal", labels, b.constant(np.array(IGNORED, np.int64)))
    return b.op("Cast", b.op("Not", ignored), to=ir.DataType.FLOAT)


def _mean(b: Builder, log_p: ir.Value, one_hot: ir.Value, counted: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The mean loss and the number of labels."""
    weight = b.op("ReduceSum", counted, keepdims=0)
    picked = b.op("ReduceSum", b.op("Mul", log_p, one_hot), keepdims=0)
    return b.op("Neg", b.op("Div", picked, weight)), weight


def _one_hot(b: Builder, logits: ir.Value, labels: ir.Value) -> ir.Value:
    """1.0 at the label, which an ignored one has nowhere."""
    classes = dims(logits)[-1]
    assert isinstance(classes, int), "the number of classes is fixed"
    here = b.op("Equal", b.op("Unsqueeze", labels, b.ints([-1])), b.constant(np.arange(classes)))
    return b.op("Cast", here, to=ir.DataType.FLOAT)

"""Next-token loss that never holds a batch's logits.

The product with the vocabulary is done for some tokens at a time, only where a label counts, and its gradient there.
With logits h W^T and p their softmax, dL/dh = (p W - W[label]) / n: no one-hot vectors and no logits outlive a chunk.
The chunks are the iterations of a Loop, so that memory does not grow with the batch.
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from export.autodiff.backward import dims
from export.losses import EvalLoss, TrainLoss, rows_without_miss
from export.onnx_builder import Builder
from export.vocabulary import Head, Vocabulary
from ravan.bundle import Precision
from ravan.runtime.names import IGNORED

ROWS = 128  # tokens of a chunk; with 49,152 token ids their logits take 25 MB


def train_next_token_loss(b: Builder, head: Head, labels: ir.Value, precision: Precision) -> TrainLoss:
    """Mean cross entropy over the labelled tokens, and its gradient at the hidden states that the logits come from."""
    tokens, vocabulary = _Tokens(b, head.hidden, labels), Vocabulary(b, head, precision)

    def chunk(body: Builder, rows: ir.Value, label: ir.Value, counted: ir.Value) -> tuple[list[ir.Value], ir.Value]:
        logits, slope = vocabulary.logits(body, rows)
        p = body.op("Softmax", logits, axis=-1)
        gradient = vocabulary.gradient(body, p, slope, label)
        return [_loss(body, p, label, counted)], body.op("Mul", gradient, body.op("Div", counted, tokens.count))

    (total,), gradients = tokens.each_chunk(chunk, sums=1, kept=tokens.width)
    return TrainLoss(b.op("Div", total, tokens.count), tokens.count, head.hidden, tokens.spread(gradients))


def eval_next_token_loss(b: Builder, head: Head, labels: ir.Value, precision: Precision) -> EvalLoss:
    """Mean cross entropy over labelled tokens, how many and rows of how many are hits, and each row's last logits."""
    tokens, vocabulary = _Tokens(b, head.hidden, labels), Vocabulary(b, head, precision)

    def chunk(body: Builder, rows: ir.Value, label: ir.Value, counted: ir.Value) -> tuple[list[ir.Value], ir.Value]:
        p = body.op("Softmax", vocabulary.logits(body, rows)[0], axis=-1)
        hits = body.op("Equal", body.op("ArgMax", p, axis=-1, keepdims=1), body.op("Unsqueeze", label, body.ints([-1])))
        hits = body.op("Cast", hits, to=ir.DataType.FLOAT)
        return [_loss(body, p, label, counted), body.op("ReduceSum", body.op("Mul", hits, counted), keepdims=0)], hits

    (total, correct), hits = tokens.each_chunk(chunk, sums=2, kept=1)
    exact = rows_without_miss(b, tokens.misses(hits), len(dims(labels)))
    following, _ = vocabulary.logits(b, _last_labelled(b, head.hidden, labels))
    return EvalLoss(b.op("Div", total, tokens.count), tokens.count, correct, exact, following)


Chunk = Callable[[Builder, ir.Value, ir.Value, ir.Value], tuple[list[ir.Value], ir.Value]]
"""(builder, hidden [rows, width], labels [rows], counted [rows, 1]) -> scalars to add up, rows [rows, kept] to keep."""


class _Tokens:
    """The labelled tokens of a batch, in chunks of ``ROWS``; the last one is filled up with rows that do not count."""

    def __init__(self, b: Builder, hidden: ir.Value, labels: ir.Value) -> None:
        self._b, self._hidden, self._all_labels = b, hidden, labels
        width = hidden.shape[-1] if hidden.shape else None
        assert isinstance(width, int), "hidden states have a fixed width"
        self.width = width
        flat_labels = b.op("Reshape", labels, b.ints([-1]))
        found = b.op("NonZero", b.op("Not", b.op("Equal", flat_labels, b.constant(np.array(IGNORED, np.int64)))))
        self._places = b.op("Transpose", found, perm=[1, 0])  # [n, 1]
        self._n = b.op("Shape", self._places, start=0, end=1)  # [1]
        self.count = b.op("ReduceSum", b.op("Cast", self._n, to=ir.DataType.FLOAT), keepdims=0)
        self._chunks = b.op("Div", b.op("Add", self._n, b.ints([ROWS - 1])), b.ints([ROWS]))
        filled = b.op("Mul", self._chunks, b.ints([ROWS]))
        padding = b.op("Concat", b.ints([0]), b.op("Sub", filled, self._n), axis=0)
        places = b.op("Pad", b.op("Reshape", self._places, b.ints([-1])), padding)  # [chunks * ROWS]
        self._flat = b.op("Reshape", hidden, b.ints([-1, width]))
        self._rows = b.op("Gather", self._flat, places, axis=0)
        self._labels = b.op("Max", b.op("Gather", flat_labels, places, axis=0), b.ints([0]))

    def each_chunk(self, chunk: Chunk, sums: int, kept: int) -> tuple[list[ir.Value], ir.Value]:
        """Sums of a chunk's scalars over all chunks, and the rows that it keeps, [n, kept]."""
        step, go_on = ir.val("chunk", ir.DataType.INT64, []), ir.val("go_on", ir.DataType.BOOL, [])
        totals = [ir.val(f"total_{i}", ir.DataType.FLOAT, []) for i in range(sums)]
        graph = ir.Graph([step, go_on, *totals], [], nodes=[], opset_imports=self._b.graph.opset_imports, name="chunk")
        body = Builder(graph, "chunk")
        start = body.op("Mul", step, body.constant(np.array(ROWS, np.int64)))
        places = body.op("Add", body.constant(np.arange(ROWS)), start)  # [ROWS]
        counted = body.op("Cast", body.op("Less", places, self._n), to=ir.DataType.FLOAT)
        rows, labels = (body.op("Gather", value, places, axis=0) for value in (self._rows, self._labels))
        scalars, keep = chunk(body, rows, labels, body.op("Unsqueeze", counted, body.ints([-1])))
        added = [body.op("Add", total, scalar) for total, scalar in zip(totals, scalars, strict=True)]
        graph.outputs.extend([body.op("Identity", go_on), *added, keep])
        chunks = self._b.op("Squeeze", self._chunks)
        zeros = [self._b.op("Identity", 0.0) for _ in range(sums)]
        outputs = self._b.ops("Loop", chunks, None, *zeros, outputs=len(graph.outputs) - 1, body=graph)
        filled = self._b.op("Reshape", outputs[-1], self._b.ints([-1, kept]))
        return outputs[:-1], self._b.op("Slice", filled, self._b.ints([0]), self._n, self._b.ints([0]))

    def spread(self, rows: ir.Value) -> ir.Value:
        """Rows [n, width] at the places of their tokens in the hidden states' shape, zero elsewhere."""
        b = self._b
        zeros = b.op("Mul", self._flat, 0.0)
        return b.op("Reshape", b.op("ScatterND", zeros, self._places, rows), b.op("Shape", self._hidden))

    def misses(self, hits: ir.Value) -> ir.Value:
        """1 at the labelled tokens that are no hits, else 0, in the labels' shape; hits [n, 1] are 1 or 0."""
        b = self._b
        nothing = b.op("Expand", 0.0, b.op("Shape", b.op("Reshape", self._all_labels, b.ints([-1]))))
        missed = b.op("ScatterND", nothing, self._places, b.op("Reshape", b.op("Sub", 1.0, hits), b.ints([-1])))
        return b.op("Reshape", missed, b.op("Shape", self._all_labels))


def _last_labelled(b: Builder, hidden: ir.Value, labels: ir.Value) -> ir.Value:
    """Of every row of hidden [batch, length, width] the place of its last label, [batch, width]."""
    labelled = b.op("Not", b.op("Equal", labels, b.constant(np.array(IGNORED, np.int64))))
    last = b.op("ArgMax", b.op("Cast", labelled, to=ir.DataType.FLOAT), axis=1, keepdims=1, select_last_index=1)
    return b.op("GatherND", hidden, last, batch_dims=1)


def _loss(b: Builder, p: ir.Value, label: ir.Value, counted: ir.Value) -> ir.Value:
    """The sum over the rows that count of -log p[label]."""
    picked = b.op("GatherElements", p, b.op("Unsqueeze", label, b.ints([-1])), axis=-1)
    log_p = b.op("Log", b.op("Max", picked, np.array(np.finfo(np.float32).tiny, np.float32)))
    return b.op("Neg", b.op("ReduceSum", b.op("Mul", log_p, counted), keepdims=0))

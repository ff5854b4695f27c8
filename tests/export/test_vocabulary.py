"""The head of a language model is found whatever scales or caps its logits, and its gradient is torch's."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from export.forward import IR_VERSION, OPSET
from export.language_loss import eval_next_token_loss, train_next_token_loss
from export.losses import eval_loss
from export.onnx_builder import Builder
from export.vocabulary import find_head
from ravan.bundle import Precision
from ravan.runtime.names import IGNORED

WIDTH, VOCABULARY, ROWS = 8, 30, 5
SHAPE = [1, ROWS, VOCABULARY]
GENERATOR = np.random.default_rng(0)
WEIGHT = GENERATOR.standard_normal((VOCABULARY, WIDTH)).astype(np.float32)
ROWS_IN = GENERATOR.standard_normal((1, ROWS, WIDTH)).astype(np.float32)
TARGETS = np.array([[3, IGNORED, 29, 0, 7]])


def logits_of(b: Builder, hidden: ir.Value, scale: float | None, cap: float | None) -> ir.Value:
    """As the exporter writes them."""
    z = b.op("MatMul", hidden, b.op("Transpose", b.constant(WEIGHT), perm=[1, 0]))
    z = z if scale is None else b.op("Mul", z, scale)
    z = z if cap is None else b.op("Mul", b.op("Tanh", b.op("Div", z, cap)), cap)
    z.shape = ir.Shape(SHAPE)
    return z


def by_torch(scale: float | None, cap: float | None) -> tuple[float, Tensor]:
    hidden = torch.from_numpy(ROWS_IN.copy()).requires_grad_()
    z = hidden @ torch.from_numpy(WEIGHT).T * (scale or 1)
    z = z if cap is None else torch.tanh(z / cap) * cap
    loss = F.cross_entropy(z[0], torch.from_numpy(TARGETS[0]), ignore_index=IGNORED)
    (gradient,) = torch.autograd.grad(loss, hidden)
    return loss.item(), gradient


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize(("scale", "cap"), [(None, None), (0.25, None), (None, 3.0), (2.0, 3.0)])
def test_loss_and_gradient_are_torchs(scale: float | None, cap: float | None, precision: Precision) -> None:
    hidden, labels = ir.val("h", ir.DataType.FLOAT, ROWS_IN.shape), ir.val("y", ir.DataType.INT64, TARGETS.shape)
    graph = ir.Graph([hidden, labels], [], nodes=[], opset_imports={"": OPSET})
    b = Builder(graph, "test")
    head = find_head(logits_of(b, hidden, scale, cap))
    assert head is not None
    assert head.hidden is hidden
    train = train_next_token_loss(b, head, labels, precision)
    graph.outputs.extend([train.value, eval_next_token_loss(b, head, labels, precision).value, train.gradient])
    model = ir.to_proto(ir.Model(graph, ir_version=IR_VERSION)).SerializeToString()
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    loss, evaluated, gradient = session.run(None, {"h": ROWS_IN, "y": TARGETS})
    expected_loss, expected = by_torch(scale, cap)
    tolerance = 1e-5 if precision is Precision.FP32 else 0.05
    assert [loss, evaluated] == pytest.approx([expected_loss] * 2, rel=tolerance)
    np.testing.assert_allclose(gradient, expected.numpy(), atol=tolerance * float(expected.abs().max()))


@pytest.fixture(scope="module")
def judged() -> ort.InferenceSession:
    """Hidden states and labels to (correct, exact), by the head and then without one."""
    hidden = ir.val("h", ir.DataType.FLOAT, ["batch", 4, WIDTH])
    labels = ir.val("y", ir.DataType.INT64, ["batch", 4])
    graph = ir.Graph([hidden, labels], [], nodes=[], opset_imports={"": OPSET})
    b = Builder(graph, "test")
    logits = logits_of(b, hidden, None, None)
    head = find_head(logits)
    assert head is not None
    for seen in (eval_next_token_loss(b, head, labels, Precision.FP32), eval_loss(b, logits, labels)):
        assert seen.correct is not None
        assert seen.exact is not None
        graph.outputs.extend([seen.correct, seen.exact])
    model = ir.to_proto(ir.Model(graph, ir_version=IR_VERSION)).SerializeToString()
    return ort.InferenceSession(model, providers=["CPUExecutionProvider"])


@given(st.lists(st.lists(st.sampled_from([True, False, None]), min_size=4, max_size=4), min_size=1, max_size=40))
def test_a_row_is_exact_if_every_label_that_counts_is_predicted(
    judged: ort.InferenceSession, wanted: list[list[bool | None]]
) -> None:
    hidden = np.broadcast_to(ROWS_IN[:, :4], (len(wanted), 4, WIDTH)).copy()
    order = (hidden @ WEIGHT.T).argsort(-1)
    hits = np.array([[hit is True for hit in row] for row in wanted])
    ignored = np.array([[hit is None for hit in row] for row in wanted])
    labels = np.where(ignored, IGNORED, np.where(hits, order[..., -1], order[..., 0]))
    seen = judged.run(None, {"h": hidden, "y": labels})
    assert [float(x) for x in seen] == [hits.sum(), (hits | ignored).all(axis=1).sum()] * 2


@pytest.mark.parametrize("op", ["Exp", "Sigmoid"])
def test_logits_that_come_about_otherwise_have_no_head(op: str) -> None:
    hidden = ir.val("h", ir.DataType.FLOAT, ROWS_IN.shape)
    b = Builder(ir.Graph([hidden], [], nodes=[], opset_imports={"": OPSET}), "test")
    logits = b.op(op, logits_of(b, hidden, None, None))
    logits.shape = ir.Shape(SHAPE)
    assert find_head(logits) is None

"""Every gradient rule against torch autograd, in double precision where the operator has it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from export.autodiff import RULES, differentiate
from export.autodiff.approximate import APPROXIMATE
from export.autodiff.backward import Rule
from export.forward import IR_VERSION, OPSET
from export.onnx_builder import Builder
from ravan.errors import ExportError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """One use of an operator: its inputs (shapes are trained, arrays constant) and what torch computes instead."""

    op: str
    inputs: Sequence[Shape | np.ndarray | float | None]
    torch: Callable[..., Tensor]
    attributes: dict[str, int | float | str | list[int]] = field(default_factory=dict)
    positive: bool = False


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


MASK = np.array([[True, False, True], [False, True, True]])
CASES = [
    Case("Abs", [(3, 4)], torch.abs),
    Case("Add", [(2, 3), (3,)], torch.add),
    Case("Add", [(2, 1, 3), (4, 1)], torch.add),
    Case("Sub", [(2, 3), (2, 1)], torch.sub),
    Case("Mul", [(2, 3), (1, 3)], torch.mul),
    Case("Div", [(2, 3), (3,)], torch.div, positive=True),
    Case("Pow", [(2, 3), 3.0], lambda x: x**3),
    Case("Pow", [(2, 3), 0.5], lambda x: x**0.5, positive=True),
    Case("Where", [MASK, (2, 3), (1, 3)], lambda x, y: torch.where(torch.tensor(MASK), x, y)),
    Case("Identity", [(2, 3)], lambda x: x),
    Case("Neg", [(2, 3)], torch.neg),
    Case("Exp", [(2, 3)], torch.exp),
    Case("Log", [(2, 3)], torch.log, positive=True),
    Case("Sqrt", [(2, 3)], torch.sqrt, positive=True),
    Case("Reciprocal", [(2, 3)], torch.reciprocal, positive=True),
    Case("Erf", [(2, 3)], torch.erf),
    Case("Tanh", [(2, 3)], torch.tanh),
    Case("Sigmoid", [(2, 3)], torch.sigmoid),
    Case("Relu", [(4, 5)], torch.relu),
    Case("Gelu", [(4, 5)], F.gelu),
    Case("Gelu", [(4, 5)], lambda x: F.gelu(x, approximate="tanh"), {"approximate": "tanh"}),
    Case("Clip", [(4, 5), -0.5, 0.8], lambda x: x.clamp(-0.5, 0.8)),
    Case("LeakyRelu", [(4, 5)], lambda x: F.leaky_relu(x, 0.1), {"alpha": 0.1}),
    Case("Elu", [(4, 5)], lambda x: F.elu(x, 0.7), {"alpha": 0.7}),
    Case("Softplus", [(4, 5)], F.softplus),
    Case("HardSigmoid", [(30, 40)], F.hardsigmoid, {"alpha": 1 / 6, "beta": 0.5}),
    Case("HardSwish", [(30, 40)], F.hardswish),
    Case("Sin", [(2, 3)], torch.sin),
    Case("Cos", [(2, 3)], torch.cos),
    Case("ReduceMax", [(2, 5, 3), ints(1)], lambda x: x.amax(1), {"keepdims": 0}),
    Case("ReduceMax", [(2, 5, 3), ints(-1)], lambda x: x.amax(-1, keepdim=True), {"keepdims": 1}),
    Case("Cast", [(2, 3)], lambda x: x, {"to": int(ir.DataType.FLOAT)}),
    Case("MatMul", [(3, 4), (4, 5)], torch.matmul),
    Case("MatMul", [(2, 3, 4), (4, 5)], torch.matmul),
    Case("MatMul", [(2, 6, 3, 4), (2, 6, 4, 5)], torch.matmul),
    Case("MatMul", [(2, 1, 3, 4), (6, 4, 5)], torch.matmul),
    Case("Gemm", [(3, 4), (4, 5), (5,)], lambda x, w, b: x @ w + b),
    Case(
        "Gemm",
        [(3, 4), (5, 4), (3, 5)],
        lambda x, w, b: 0.5 * x @ w.T + 2 * b,
        {"transB": 1, "alpha": 0.5, "beta": 2.0},
    ),
    Case("Gemm", [(4, 3), (4, 5)], lambda x, w: x.T @ w, {"transA": 1}),
    Case("Gemm", [(4, 3), (5, 4)], lambda x, w: x.T @ w.T, {"transA": 1, "transB": 1}),
    Case("Softmax", [(2, 3, 4)], lambda x: x.softmax(-1), {"axis": -1}),
    Case("Softmax", [(2, 3, 4)], lambda x: x.softmax(1), {"axis": 1}),
    Case("LogSoftmax", [(3, 4)], lambda x: x.log_softmax(-1), {"axis": -1}),
    Case(
        "LayerNormalization",
        [(2, 3, 8), (8,), (8,)],
        lambda x, w, b: F.layer_norm(x, (8,), w, b),
        {"axis": -1, "epsilon": 1e-5},
    ),
    Case("ReduceSum", [(2, 3, 4), ints(1)], lambda x: x.sum(1), {"keepdims": 0}),
    Case("ReduceSum", [(2, 3, 4)], lambda x: x.sum(), {"keepdims": 0}),
    Case("ReduceMean", [(2, 3, 4), ints(-1, 0)], lambda x: x.mean((-1, 0), keepdim=True), {"keepdims": 1}),
    Case("ReduceMean", [(2, 3, 4), ints(2)], lambda x: x.mean(2), {"keepdims": 0}),
    Case("Reshape", [(2, 6), ints(3, 4)], lambda x: x.reshape(3, 4)),
    Case("Flatten", [(2, 3, 4)], lambda x: x.flatten(1), {"axis": 1}),
    Case("Squeeze", [(2, 1, 3), ints(1)], lambda x: x.squeeze(1)),
    Case("Unsqueeze", [(2, 3), ints(0, 2)], lambda x: x[None, :, None]),
    Case("Transpose", [(2, 3, 4)], lambda x: x.permute(2, 0, 1), {"perm": [2, 0, 1]}),
    Case("Transpose", [(2, 3, 4)], lambda x: x.permute(2, 1, 0)),
    Case("Expand", [(2, 1, 3), ints(4, 2, 5, 3)], lambda x: x.expand(4, 2, 5, 3)),
    Case("Concat", [(2, 3), (4, 3)], lambda x, y: torch.cat([x, y]), {"axis": 0}),
    Case("Concat", [(2, 3), (2, 1)], lambda x, y: torch.cat([x, y], 1), {"axis": 1}),
    Case("Slice", [(4, 6), ints(1), ints(-1), ints(1)], lambda x: x[:, 1:-1]),
    Case("Slice", [(4, 6), ints(0, 2), ints(3, 9000), ints(0, 1)], lambda x: x[0:3, 2:]),
    Case("Slice", [(3, 4, 6), ints(2), ints(5), ints(-1)], lambda x: x[..., 2:5]),
    Case("Gather", [(2, 5, 3), np.array(0, np.int64)], lambda x: x[:, 0], {"axis": 1}),
    Case("Gather", [(2, 5, 3), np.array(4, np.int64)], lambda x: x[:, 4], {"axis": 1}),
    Case("Gather", [(2, 5, 3), ints(1)], lambda x: x[..., 1:2], {"axis": 2}),
]


def loss_gradients(case: Case, values: list[np.ndarray], rules: Mapping[str, Rule] = RULES) -> list[np.ndarray]:
    """Gradients of sum(op(x) * c) by the rules, c fixed and random, through onnxruntime."""
    names = [f"x{i}" for i in range(len(values))]
    inputs = [ir.val(n, ir.DataType.FLOAT, v.shape) for n, v in zip(names, values, strict=True)]
    graph = ir.Graph(list(inputs), [], nodes=[], opset_imports={"": OPSET})
    b = Builder(graph, "forward")
    trained = iter(inputs)
    operands = [next(trained) if isinstance(x, tuple) else x for x in case.inputs]
    out = b.op(case.op, *operands, **case.attributes)
    expected = case.torch(*map(torch.from_numpy, values))
    out.shape, out.dtype = ir.Shape(expected.shape), ir.DataType.FLOAT
    gradients = differentiate(graph, {out: b.constant(seed(expected))}, inputs, rules)
    graph.outputs.extend(gradients)
    model = ir.to_proto(ir.Model(graph, ir_version=IR_VERSION)).SerializeToString()
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(zip(names, values, strict=True))))


def seed(out: Tensor) -> np.ndarray:
    return np.asarray(np.random.default_rng(1).standard_normal(tuple(out.shape)), np.float32)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.op)
def test_a_rule_agrees_with_torch(case: Case) -> None:
    generator = np.random.default_rng(0)
    values = [generator.standard_normal(x).astype(np.float32) for x in case.inputs if isinstance(x, tuple)]
    if case.positive:
        values = [np.abs(v) + np.float32(0.5) for v in values]
    tensors = [torch.from_numpy(v.copy()).requires_grad_() for v in values]
    out = case.torch(*tensors)
    torch.autograd.backward((out * torch.from_numpy(seed(out))).sum())
    for seen, tensor in zip(loss_gradients(case, values), tensors, strict=True):
        assert tensor.grad is not None
        np.testing.assert_allclose(seen, tensor.grad.numpy(), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_the_slope_of_gelu_by_difference_is_far_closer_than_int8_products(approximate: str) -> None:
    case = Case("Gelu", [(1, 2001)], partial(F.gelu, approximate=approximate), {"approximate": approximate})
    x = np.linspace(-10, 10, 2001, dtype=np.float32)[None]
    tensor = torch.from_numpy(x.copy()).requires_grad_()
    out = case.torch(tensor)
    torch.autograd.backward((out * torch.from_numpy(seed(out))).sum())
    (seen,) = loss_gradients(case, [x], {**RULES, **APPROXIMATE})
    assert tensor.grad is not None
    np.testing.assert_allclose(seen / seed(out), tensor.grad.numpy() / seed(out), atol=0.002)


def test_every_rule_has_a_case() -> None:
    assert {case.op for case in CASES} | {"Split"} == set(RULES)


def test_split_gives_zeros_for_parts_that_the_loss_does_not_see() -> None:
    x = ir.val("x", ir.DataType.FLOAT, [6])
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": OPSET})
    b = Builder(graph, "forward")
    first, second = b.ops("Split", x, b.ints([2, 4]), outputs=2, axis=0)
    for part, size in ((first, 2), (second, 4)):
        part.shape, part.dtype = ir.Shape([size]), ir.DataType.FLOAT
    graph.outputs.extend(differentiate(graph, {second: b.constant(np.arange(4, dtype=np.float32))}, [x], RULES))
    session = ort.InferenceSession(ir.to_proto(ir.Model(graph, ir_version=IR_VERSION)).SerializeToString())
    (gradient,) = session.run(None, {"x": np.ones(6, np.float32)})
    np.testing.assert_array_equal(gradient, [0, 0, 0, 1, 2, 3])


def test_a_value_used_twice_gets_the_sum_of_its_gradients() -> None:
    case = Case("Mul", [(2, 3), (2, 3)], torch.mul)
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    left, right = loss_gradients(case, [x, x])
    value = ir.val("x", ir.DataType.FLOAT, [2, 3])
    graph = ir.Graph([value], [], nodes=[], opset_imports={"": OPSET})
    b = Builder(graph, "forward")
    out = b.op("Mul", value, value)
    out.shape, out.dtype = ir.Shape([2, 3]), ir.DataType.FLOAT
    graph.outputs.extend(differentiate(graph, {out: b.constant(seed(torch.from_numpy(x)))}, [value], RULES))
    session = ort.InferenceSession(ir.to_proto(ir.Model(graph, ir_version=IR_VERSION)).SerializeToString())
    np.testing.assert_allclose(session.run(None, {"x": x})[0], left + right, atol=1e-6)


def test_an_operator_without_a_rule_is_named() -> None:
    with pytest.raises(ExportError, match=r"Operator Mish .* has no gradient rule"):
        loss_gradients(Case("Mish", [(2, 3)], F.mish), [np.ones((2, 3), np.float32)])


def test_a_trainable_without_influence_is_named() -> None:
    x, idle = (ir.val(n, ir.DataType.FLOAT, [2]) for n in ("x", "idle"))
    graph = ir.Graph([x, idle], [], nodes=[], opset_imports={"": OPSET})
    b = Builder(graph, "forward")
    out = b.op("Exp", x)
    out.shape, out.dtype = ir.Shape([2]), ir.DataType.FLOAT
    with pytest.raises(ExportError, match="idle does not influence"):
        differentiate(graph, {out: b.constant(np.ones(2, np.float32))}, [x, idle], RULES)


def test_nothing_below_the_lowest_trainable_gets_a_gradient() -> None:
    frozen, x = (ir.val(n, ir.DataType.FLOAT, [2, 2]) for n in ("frozen", "x"))
    graph = ir.Graph([frozen, x], [], nodes=[], opset_imports={"": OPSET})
    b = Builder(graph, "forward")
    below = b.op("Erf", b.op("Exp", frozen))
    out = b.op("MatMul", below, x)
    for value in (below, out):
        value.shape, value.dtype = ir.Shape([2, 2]), ir.DataType.FLOAT
    before = len(graph)
    differentiate(graph, {out: b.constant(np.ones((2, 2), np.float32))}, [x], RULES)
    assert [node.op_type for node in list(graph)[before:]] == ["Transpose", "MatMul"]

"""Groups of operators with a gradient in closed form: the same as torch's, in fewer passes than rule by rule."""

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from export.autodiff import RULES, differentiate
from export.forward import IR_VERSION, OPSET
from export.onnx_builder import Builder

Shape = tuple[int, ...]
Forward = Callable[..., ir.Value]


class Shaped(Builder):
    """A builder that knows the shape of what it appends, as torch's exporter does."""

    def like(self, shape: Shape, op_type: str, *inputs: ir.Value | np.ndarray | float, **attributes: int) -> ir.Value:
        out = self.op(op_type, *inputs, **attributes)
        out.shape, out.dtype = ir.Shape(shape), ir.DataType.FLOAT
        return out


def silu(b: Shaped, x: ir.Value) -> ir.Value:
    return b.like((3, 8), "Mul", x, b.like((3, 8), "Sigmoid", x))


def rms_norm(b: Shaped, x: ir.Value) -> ir.Value:
    mean = b.like((2, 3, 1), "ReduceMean", b.like((2, 3, 8), "Pow", x, 2.0), b.ints([-1]), keepdims=1)
    root = b.like((2, 3, 1), "Sqrt", b.like((2, 3, 1), "Add", mean, 1e-5))
    return b.like((2, 3, 8), "Mul", x, b.like((2, 3, 1), "Reciprocal", root))


def attention(b: Shaped, z: ir.Value, v: ir.Value) -> ir.Value:
    return b.like((2, 4, 3, 5), "MatMul", b.like((2, 4, 3, 6), "Softmax", z, axis=-1), v)


def attention_seen_twice(b: Shaped, z: ir.Value, v: ir.Value) -> ir.Value:
    """The probabilities also reach the loss on another way."""
    p = b.like((3, 3), "Softmax", z, axis=-1)
    return b.like((3, 3), "Add", b.like((3, 3), "MatMul", p, v), p)


def softmax_over_columns(b: Shaped, z: ir.Value, v: ir.Value) -> ir.Value:
    return b.like((3, 5), "MatMul", b.like((3, 6), "Softmax", z, axis=0), v)


CASES: Sequence[tuple[Forward, Callable[..., Tensor], list[Shape], set[str]]] = [
    (silu, F.silu, [(3, 8)], {"Add", "Mul", "Sub"}),
    (rms_norm, lambda x: F.rms_norm(x, (8,), eps=1e-5), [(2, 3, 8)], {"Mul", "ReduceMean", "Sub"}),
    (attention, lambda z, v: z.softmax(-1) @ v, [(2, 4, 3, 6), (2, 4, 6, 5)], set()),
    (attention_seen_twice, lambda z, v: z.softmax(-1) @ v + z.softmax(-1), [(3, 3), (3, 3)], set()),
    (softmax_over_columns, lambda z, v: z.softmax(0) @ v, [(3, 6), (6, 5)], set()),
]


@pytest.mark.parametrize(("forward", "expected", "shapes", "kinds"), CASES, ids=lambda c: getattr(c, "__name__", ""))
def test_a_group_agrees_with_torch(
    forward: Forward, expected: Callable[..., Tensor], shapes: list[Shape], kinds: set[str]
) -> None:
    generator = np.random.default_rng(0)
    values = [generator.standard_normal(shape).astype(np.float32) for shape in shapes]
    tensors = [torch.from_numpy(v.copy()).requires_grad_() for v in values]
    out = expected(*tensors)
    c = generator.standard_normal(tuple(out.shape)).astype(np.float32)
    torch.autograd.backward((out * torch.from_numpy(c)).sum())

    inputs = [ir.val(f"x{i}", ir.DataType.FLOAT, shape) for i, shape in enumerate(shapes)]
    graph = ir.Graph(list(inputs), [], nodes=[], opset_imports={"": OPSET})
    b = Shaped(graph, "forward")
    y = forward(b, *inputs)
    before = len(graph)
    graph.outputs.extend(differentiate(graph, {y: b.constant(c)}, inputs, RULES))
    if kinds:
        assert {node.op_type for node in list(graph)[before:]} == kinds
    session = ort.InferenceSession(ir.to_proto(ir.Model(graph, ir_version=IR_VERSION)).SerializeToString())
    seen = session.run(None, {f"x{i}": v for i, v in enumerate(values)})
    for gradient, tensor in zip(seen, tensors, strict=True):
        assert tensor.grad is not None
        np.testing.assert_allclose(gradient, tensor.grad.numpy(), atol=2e-5, rtol=2e-5)


def test_layer_normalization_stays_exact_far_from_zero() -> None:
    """Its backward pass subtracts the mean from a product of sums, which would lose digits if done carelessly."""
    generator = np.random.default_rng(0)
    x = (10 + generator.standard_normal((16, 64))).astype(np.float32)
    c = generator.standard_normal((16, 64)).astype(np.float32)
    tensor = torch.from_numpy(x).double().requires_grad_()
    torch.autograd.backward((F.layer_norm(tensor, (64,)) * torch.from_numpy(c)).sum())
    value = ir.val("x", ir.DataType.FLOAT, [16, 64])
    graph = ir.Graph([value], [], nodes=[], opset_imports={"": OPSET})
    b = Shaped(graph, "forward")
    y = b.like((16, 64), "LayerNormalization", value, np.ones(64, np.float32), axis=-1)
    graph.outputs.extend(differentiate(graph, {y: b.constant(c)}, [value], RULES))
    session = ort.InferenceSession(ir.to_proto(ir.Model(graph, ir_version=IR_VERSION)).SerializeToString())
    assert tensor.grad is not None
    np.testing.assert_allclose(session.run(None, {"x": x})[0], tensor.grad.numpy(), atol=1e-4)

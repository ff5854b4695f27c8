"""Gradient rules of activations, clipping and maxima, as modules outside transformers' use them."""

from collections.abc import Mapping

import onnx_ir as ir

from export.autodiff.backward import Backward, Rule, attribute
from export.autodiff.elementwise import Gradients
from export.autodiff.reduce import axes_of


def clip(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    """Dy where x is as it was; also of ReLU6 and Hardtanh."""
    kept = b.op("Equal", node.inputs[0], node.outputs[0])
    return b.op("Where", kept, dy, 0.0), None, None


def leaky_relu(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    below = b.op("Mul", dy, node.attributes.get_float("alpha", 0.01))
    return (b.op("Where", b.op("Greater", node.inputs[0], 0.0), dy, below),)


def elu(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    """Below 0 y = alpha (e^x - 1), whose slope is y + alpha."""
    below = b.op("Mul", dy, b.op("Add", node.outputs[0], node.attributes.get_float("alpha", 1.0)))
    return (b.op("Where", b.op("Greater", node.inputs[0], 0.0), dy, below),)


def softplus(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    return (b.op("Mul", dy, b.op("Sigmoid", node.inputs[0])),)


def hard_sigmoid(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    y = node.outputs[0]
    inside = b.op("And", b.op("Greater", y, 0.0), b.op("Less", y, 1.0))
    return (b.op("Where", inside, b.op("Mul", dy, node.attributes.get_float("alpha", 0.2)), 0.0),)


def hard_swish(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    """Y = x min(max(x / 6 + 1/2, 0), 1): between -3 and 3 the slope is x / 3 + 1/2."""
    x = node.inputs[0]
    between = b.op("Mul", dy, b.op("Add", b.op("Div", x, 3.0), 0.5))
    above = b.op("Where", b.op("Greater", x, 3.0), dy, between)
    return (b.op("Where", b.op("Less", x, -3.0), 0.0, above),)


def sin(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    return (b.op("Mul", dy, b.op("Cos", node.inputs[0])),)


def cos(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    return (b.op("Neg", b.op("Mul", dy, b.op("Sin", node.inputs[0]))),)


def reduce_max(b: Backward, node: ir.Node, dy: ir.Value) -> Gradients:
    """Dy at the largest value, in equal parts where several are the largest (torch.amax)."""
    x, axes = node.inputs[0], b.ints(axes_of(node))
    largest = node.outputs[0]
    if not attribute(node, "keepdims", 1):
        largest, dy = (b.op("Unsqueeze", value, axes) for value in (largest, dy))
    here = b.op("Cast", b.op("Equal", x, largest), to=ir.DataType.FLOAT)
    return b.op("Mul", b.op("Div", here, b.op("ReduceSum", here, axes, keepdims=1)), dy), None


RULES: Mapping[str, Rule] = {
    "Clip": clip,
    "Cos": cos,
    "Elu": elu,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "LeakyRelu": leaky_relu,
    "ReduceMax": reduce_max,
    "Sin": sin,
    "Softplus": softplus,
}

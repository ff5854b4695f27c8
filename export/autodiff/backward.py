"""The walk from the loss back to the trainables."""

import ast
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from export.onnx_builder import Builder
from ravan.errors import ExportError

FLOATS = {ir.DataType.FLOAT, ir.DataType.DOUBLE}

Rule = Callable[["Backward", ir.Node, ir.Value], Sequence[ir.Value | None]]
"""(backward, forward node, dL/d its first output) -> dL/d each input, None where there is none to give."""


class Backward(Builder):
    """Appends gradient nodes to the graph it differentiates; what the rules work with."""

    def __init__(self, graph: ir.Graph, wrt: Sequence[ir.Value]) -> None:
        super().__init__(graph, "backward")
        self._gradients: defaultdict[ir.Value, list[ir.Value]] = defaultdict(list)
        self.active = active_values(graph, wrt)

    def wants(self, value: ir.Value | None) -> bool:
        """Whether a value depends on a trainable, so that its gradient is needed."""
        return value is not None and value in self.active

    def accumulate(self, value: ir.Value, gradient: ir.Value) -> None:
        """Adds a contribution to dL/d value."""
        self._gradients[value].append(gradient)

    def gradient(self, value: ir.Value) -> ir.Value | None:
        """The sum of all contributions to dL/d value so far."""
        parts = self._gradients[value]
        while len(parts) > 1:
            parts.append(self.op("Add", parts.pop(0), parts.pop(0)))
        return parts[0] if parts else None

    def unbroadcast(self, gradient: ir.Value, x: ir.Value, out: ir.Value) -> ir.Value:
        """Sums a gradient shaped like ``out`` over the axes along which ``x`` was broadcast to it."""
        small, big = dims(x), dims(out)
        if small == big:
            return gradient
        lead = len(big) - len(small)
        stretched = [lead + i for i, d in enumerate(small) if d == 1 and big[lead + i] != 1]
        if stretched:
            gradient = self.op("ReduceSum", gradient, self.ints(stretched), keepdims=1)
        if lead:
            gradient = self.op("ReduceSum", gradient, self.ints(range(lead)), keepdims=0)
        return gradient


def differentiate(
    graph: ir.Graph,
    seeds: Mapping[ir.Value, ir.Value],
    wrt: Sequence[ir.Value],
    rules: Mapping[str, Rule],
) -> list[ir.Value]:
    """Appends the nodes that compute dL/d w for each w of ``wrt`` and returns those gradients in order.

    ``seeds`` gives dL/d value for the values that the loss was computed from; only nodes already in the graph are
    differentiated.

    Raises:
        ExportError: an operator on the way has no rule, or a trainable does not influence the loss.
    """
    backward = Backward(graph, wrt)
    nodes = [node for node in graph if any(backward.wants(out) for out in node.outputs)]
    for value, gradient in seeds.items():
        backward.accumulate(value, gradient)
    for node in reversed(nodes):
        dy = backward.gradient(node.outputs[0])
        if dy is None and not any(backward.gradient(out) for out in node.outputs[1:]):
            continue
        rule = rules.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if rule is None:
            raise ExportError(_no_rule(node))
        for x, dx in zip(node.inputs, rule(backward, node, dy), strict=False):  # type: ignore[arg-type]
            if x is not None and dx is not None and backward.wants(x):
                backward.accumulate(x, dx)
    return [_found(backward, w) for w in wrt]


def active_values(graph: ir.Graph, wrt: Sequence[ir.Value]) -> set[ir.Value]:
    """The float values of a graph that depend on any of ``wrt``; below them there is no backward pass."""
    active = set(wrt)
    for node in graph:
        if any(x in active for x in node.inputs):
            active |= {out for out in node.outputs if out.dtype in FLOATS}
    return active


def dims(value: ir.Value) -> list[int | str | None]:
    """A value's shape, symbolic dimensions by name.

    Raises:
        ExportError: the rank is not known.
    """
    if value.shape is None:
        raise ExportError(f"The shape of {value.name} is unknown: export with inputs of a fixed rank.")
    return [d if isinstance(d, int) else d.value for d in value.shape]


def attribute(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute, or its default."""
    return node.attributes.get_int(name, default)


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array behind a constant value, else None."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else tensor.numpy()


def _no_rule(node: ir.Node) -> str:
    scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))  # from the model inwards
    module = f" in module {scopes[-2].removeprefix('model.')}" if len(scopes) > 1 else ""
    return (
        f"Operator {node.op_type}{module} (node {node.name}) has no gradient rule: adapt only layers above it with "
        "--top-layers or --target, or add a rule to export/autodiff."
    )


def _found(backward: Backward, value: ir.Value) -> ir.Value:
    gradient = backward.gradient(value)
    if gradient is None:
        raise ExportError(f"{value.name} does not influence the loss: do not adapt or save its module.")
    return gradient

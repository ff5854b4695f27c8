"""The graphs of a bundle, made from one forward graph; ``ravan.runtime.names`` says what goes in and out."""

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir
import onnx_ir.passes.common as passes

from export.autodiff import RULES, differentiate
from export.autodiff.approximate import APPROXIMATE
from export.autodiff.backward import Rule, dims
from export.language_loss import eval_next_token_loss, train_next_token_loss
from export.losses import eval_loss, train_loss
from export.onnx_builder import Builder
from export.quantize import Scheme, quantize_embeddings, quantize_frozen_products
from export.recompute import Budget, DifferentiatedGraph, observed, recompute
from export.squared_error import eval_squared_error, train_squared_error
from export.vocabulary import find_head
from ravan.bundle import Precision
from ravan.inputs import Loss
from ravan.runtime.names import CORRECT, EXACT, FOLLOWING, GRADIENTS, LABELS, LOSS, TRAINABLES, WEIGHT
from ravan.spec import AdapterSpec

RECOMPUTED = "recomputed"


@dataclass(frozen=True)
class Numbers:
    """In which numbers a graph's frozen products run.

    Attributes:
        precision: float32, or int8 for weights and embedding tables.
        schemes: for the forward products' inputs in int8, see ``export.calibrate``.
    """

    precision: Precision = Precision.FP32
    schemes: Mapping[str, Scheme] = field(default_factory=dict)

    @property
    def rules(self) -> Mapping[str, Rule]:
        """The gradient rules for a graph in these numbers."""
        return RULES if self.precision is Precision.FP32 else {**RULES, **APPROXIMATE}

    def apply(self, graph: ir.Graph, gradients: Container[ir.Node] = ()) -> None:
        """Quantizes a graph if that is wanted; ``gradients`` are the nodes of its backward pass."""
        if self.precision is Precision.INT8:
            quantize_embeddings(graph)
            quantize_frozen_products(graph, gradients, self.schemes)


FLOAT = Numbers()


def train_graph(
    forward: ir.Model,
    spec: AdapterSpec,
    numbers: Numbers = FLOAT,
    budget: Budget | None = None,
    objective: Loss | None = None,
    top: int | None = None,
) -> ir.Model:
    """Loss and gradients of one batch, as plain ONNX operators.

    The loss is the cross entropy of examples or tokens unless the ``objective`` is another. With a ``budget`` the
    layers that do not fit are recomputed; the Report is the model's ``meta[RECOMPUTED]``.

    With ``top`` only the last so many adapted layers get gradients, and the saved tensors: H and s below are data like
    any other, so that the backward pass ends where the lowest of those layers begins. In the output their gradients are
    zeros, so that it has the same length.

    Raises:
        ExportError: an operator has no gradient rule, a trainable does not influence the loss, or the budget is less
            than recomputation needs.
    """
    model = forward.clone()
    graph = model.graph
    trainables = _flat_trainables(graph, spec)
    forward_nodes = set(graph)
    b, logits, labels = Builder(graph, "step"), graph.outputs[0], _labels(graph, objective)
    head = find_head(logits)
    if objective is Loss.MEAN_SQUARED_ERROR:
        loss = train_squared_error(b, logits, labels)
    else:
        loss = train_next_token_loss(b, head, labels, numbers.precision) if head else train_loss(b, logits, labels)
    graph.outputs.clear()
    arriving: dict[ir.Value, ir.Value] = {}
    kept = _kept(spec, top)
    rules = numbers.rules if budget is None else RULES  # the faster ones keep more, which a budget has no room for
    wanted = [trainables[i] for i in kept]
    gradients = differentiate(graph, {loss.at: loss.gradient}, wanted, observed(rules, arriving))
    backward_nodes = set(graph) - forward_nodes
    if budget is not None:
        batch = [x for x in graph.inputs if x.name != TRAINABLES]
        made = DifferentiatedGraph(graph, batch, loss.at, arriving, gradients)
        model.meta[RECOMPUTED] = recompute(made, budget)
    numbers.apply(graph, gradients=backward_nodes)  # clones are no gradients
    found = dict(zip(kept, gradients, strict=True))
    pieces = [_flat(b, found.get(i), math.prod(shape)) for i, shape in enumerate(_shapes(spec))]
    flat = b.op("Concat", *pieces, axis=0)
    for name, value, shape in ((LOSS, loss.value, []), (WEIGHT, loss.weight, []), (GRADIENTS, flat, [spec.size])):
        _output(graph, name, value, shape)
    return _finished(model)


def eval_graph(
    forward: ir.Model, spec: AdapterSpec, numbers: Numbers = FLOAT, objective: Loss | None = None
) -> ir.Model:
    """Loss and counts of one batch, and its logits; a frozen vocabulary's at each row's last label alone.

    ``objective`` as for ``train_graph``.
    """
    model = forward.clone()
    graph = model.graph
    _flat_trainables(graph, spec)
    b, logits, labels = Builder(graph, "eval"), graph.outputs[0], _labels(graph, objective)
    if objective is Loss.MEAN_SQUARED_ERROR:
        loss = eval_squared_error(b, logits, labels)
    elif head := find_head(logits):
        loss = eval_next_token_loss(b, head, labels, numbers.precision)
        graph.outputs.clear()
    else:
        loss = eval_loss(b, logits, labels)
    numbers.apply(graph)
    for name, value in ((LOSS, loss.value), (WEIGHT, loss.weight), (CORRECT, loss.correct), (EXACT, loss.exact)):
        if value is not None:
            _output(graph, name, value, [])
    if loss.following is not None:
        _output(graph, FOLLOWING, loss.following, [*dims(labels)[:1], dims(logits)[-1]])
    return _finished(model)


def prefix_graph(prefix: ir.Model, numbers: Numbers = FLOAT) -> ir.Model:
    """The frozen part below the lowest adapted layer, raw batch to hidden states."""
    model = prefix.clone()
    numbers.apply(model.graph)
    return _finished(model)


def _shapes(spec: AdapterSpec) -> list[list[int]]:
    """Of the single trainables, in the order of the flat vector."""
    shapes = [[spec.heads, spec.rank, spec.rank]] * len(spec.layers) + [[spec.heads]] * len(spec.layers)
    return shapes + [list(tensor.shape) for tensor in spec.saved]


def _kept(spec: AdapterSpec, top: int | None) -> list[int]:
    """Which of the single trainables get gradients."""
    layers = len(spec.layers)
    lowest = 0 if top is None else layers - top
    return [*range(lowest, layers), *range(layers + lowest, 2 * layers + len(spec.saved))]


def _flat(b: Builder, gradient: ir.Value | None, size: int) -> ir.Value:
    """A gradient as a vector; zeros where there is none."""
    return b.op("ConstantOfShape", b.ints([size])) if gradient is None else b.op("Reshape", gradient, b.ints([-1]))


def _flat_trainables(graph: ir.Graph, spec: AdapterSpec) -> list[ir.Value]:
    """Replaces the inputs of the single trainables by parts of one flat input, and returns the parts in order."""
    shapes = _shapes(spec)
    single, b = graph.inputs[: len(shapes)], Builder(graph, TRAINABLES)
    flat = ir.val(TRAINABLES, ir.DataType.FLOAT, [spec.size])
    pieces = b.ops("Split", flat, b.ints(map(math.prod, shapes)), outputs=len(shapes), axis=0)
    parts = [b.op("Reshape", piece, b.ints(shape)) for piece, shape in zip(pieces, shapes, strict=True)]
    for value, part in zip(single, parts, strict=True):
        ir.convenience.replace_all_uses_with(value, part)
        part.shape, part.type = value.shape, value.type
        part.name, value.name = value.name, None
    del graph.inputs[: len(shapes)]
    graph.inputs.append(flat)
    graph.sort()
    return parts


def _labels(graph: ir.Graph, objective: Loss | None) -> ir.Value:
    shape = dims(graph.outputs[0])
    if objective is Loss.MEAN_SQUARED_ERROR:
        labels = ir.val(LABELS, ir.DataType.FLOAT, shape)
    else:
        labels = ir.val(LABELS, ir.DataType.INT64, shape[:-1])
    graph.inputs.append(labels)
    return labels


def _output(graph: ir.Graph, name: str, value: ir.Value, shape: Sequence[int | str | None]) -> None:
    value.name, value.shape, value.dtype = name, ir.Shape(shape), ir.DataType.FLOAT
    graph.outputs.append(value)


def _finished(model: ir.Model) -> ir.Model:
    """Without unread nodes, equal constants, and the exporter's notes (which hold source paths)."""
    passes.CommonSubexpressionEliminationPass()(model)
    passes.RemoveUnusedNodesPass()(model)
    passes.ClearMetadataAndDocStringPass()(model)
    model.graph.sort()
    return model

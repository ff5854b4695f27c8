"""The two graphs of a bundle, made from one forward graph.

train.onnx: batch, labels and the flat ``trainables`` in; ``loss``, ``weight`` and the flat ``gradients`` out.
eval.onnx: the same in; ``logits``, ``loss``, ``weight`` and ``correct`` out.
"""

import math

import onnx_ir as ir
import onnx_ir.passes.common as passes

from export.autodiff import RULES, differentiate
from export.autodiff.backward import dims
from export.losses import correct_predictions, cross_entropy
from export.onnx_builder import Builder
from export.quantize import quantize_embeddings, quantize_frozen_products
from ravan.bundle import Precision
from ravan.runtime.names import CORRECT, GRADIENTS, LABELS, LOGITS, LOSS, TRAINABLES, WEIGHT
from ravan.spec import AdapterSpec


def train_graph(forward: ir.Model, spec: AdapterSpec, precision: Precision = Precision.FP32) -> ir.Model:
    """Loss and all gradients of one batch, as plain ONNX operators.

    Raises:
        ExportError: an operator has no gradient rule, or a trainable does not influence the loss.
    """
    model = forward.clone()
    graph = model.graph
    trainables = _flat_trainables(graph, spec)
    forward_nodes = set(graph)
    b = Builder(graph, "step")
    loss = cross_entropy(b, graph.outputs[0], _labels(graph))
    gradients = differentiate(graph, {graph.outputs[0]: loss.seed}, trainables, RULES)
    if precision is Precision.INT8:
        quantize_embeddings(graph)
        quantize_frozen_products(graph, gradients=set(graph) - forward_nodes)
    flat = b.op("Concat", *(b.op("Reshape", g, b.ints([-1])) for g in gradients), axis=0)
    graph.outputs.clear()
    for name, value, shape in ((LOSS, loss.value, []), (WEIGHT, loss.weight, []), (GRADIENTS, flat, [spec.size])):
        _output(graph, name, value, shape)
    return _finished(model)


def eval_graph(forward: ir.Model, spec: AdapterSpec, precision: Precision = Precision.FP32) -> ir.Model:
    """Logits, loss and counts of one batch."""
    model = forward.clone()
    graph = model.graph
    _flat_trainables(graph, spec)
    if precision is Precision.INT8:
        quantize_embeddings(graph)
        quantize_frozen_products(graph)
    logits = graph.outputs[0]
    b, labels = Builder(graph, "eval"), _labels(graph)
    loss = cross_entropy(b, logits, labels)  # its seed is read by nobody here, and dropped below
    for name, value in (
        (LOSS, loss.value),
        (WEIGHT, loss.weight),
        (CORRECT, correct_predictions(b, logits, labels)),
    ):
        _output(graph, name, value, [])
    assert logits.name == LOGITS
    return _finished(model)


def _flat_trainables(graph: ir.Graph, spec: AdapterSpec) -> list[ir.Value]:
    """Replaces the inputs of the single trainables by parts of one flat input, and returns the parts in order."""
    shapes = [[spec.heads, spec.rank, spec.rank]] * len(spec.layers) + [[spec.heads]] * len(spec.layers)
    shapes += [list(tensor.shape) for tensor in spec.saved]
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


def _labels(graph: ir.Graph) -> ir.Value:
    labels = ir.val(LABELS, ir.DataType.INT64, dims(graph.outputs[0])[:1])
    graph.inputs.append(labels)
    return labels


def _output(graph: ir.Graph, name: str, value: ir.Value, shape: list[int]) -> None:
    value.name, value.shape, value.dtype = name, ir.Shape(shape), ir.DataType.FLOAT
    graph.outputs.append(value)


def _finished(model: ir.Model) -> ir.Model:
    """Without unread nodes, equal constants, and the exporter's notes (which hold source paths)."""
    passes.CommonSubexpressionEliminationPass()(model)
    passes.RemoveUnusedNodesPass()(model)
    passes.ClearMetadataAndDocStringPass()(model)
    model.graph.sort()
    return model

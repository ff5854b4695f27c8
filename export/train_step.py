"""The two graphs of a bundle, made from one forward graph.

train.onnx: batch, labels and the flat ``trainables`` in; ``loss``, ``weight`` and the flat ``gradients`` out.
eval.onnx: the same in; ``logits``, ``loss``, ``weight`` and ``correct`` out.
"""

import onnx_ir as ir
import onnx_ir.passes.common as passes

from export.autodiff import differentiate
from export.losses import classification_counts, cross_entropy
from export.onnx_builder import Builder
from ravan.runtime.names import CORRECT, GRADIENTS, LABELS, LOGITS, LOSS, TRAINABLES, WEIGHT
from ravan.spec import AdapterSpec


def train_graph(forward: ir.Model, spec: AdapterSpec) -> ir.Model:
    """Loss and all gradients of one batch, as plain ONNX operators.

    Raises:
        ExportError: an operator has no gradient rule, or a trainable does not influence the loss.
    """
    model = forward.clone()
    graph = model.graph
    trainables = _flat_trainables(graph, spec)
    b = Builder(graph, "step")
    loss = cross_entropy(b, graph.outputs[0], _labels(graph))
    gradients = differentiate(graph, {graph.outputs[0]: loss.seed}, trainables)
    flat = b.op("Concat", *(b.op("Reshape", g, b.ints([-1])) for g in gradients), axis=0)
    graph.outputs.clear()
    for name, value, shape in ((LOSS, loss.value, []), (WEIGHT, loss.weight, []), (GRADIENTS, flat, [spec.size])):
        _output(graph, name, value, shape)
    return _finished(model)


def eval_graph(forward: ir.Model, spec: AdapterSpec) -> ir.Model:
    """Logits, loss and counts of one batch."""
    model = forward.clone()
    graph = model.graph
    _flat_trainables(graph, spec)
    logits = graph.outputs[0]
    loss, weight, correct = classification_counts(Builder(graph, "eval"), logits, _labels(graph))
    for name, value in ((LOSS, loss), (WEIGHT, weight), (CORRECT, correct)):
        _output(graph, name, value, [])
    assert logits.name == LOGITS
    return _finished(model)


def _flat_trainables(graph: ir.Graph, spec: AdapterSpec) -> list[ir.Value]:
    """Replaces the inputs of the single trainables by one flat input and returns its parts, in order."""
    count = 2 * len(spec.layers) + len(spec.saved)
    single = list(graph.inputs[:count])
    flat = ir.Input(TRAINABLES, ir.Shape([spec.size]), ir.TensorType(ir.DataType.FLOAT))
    first = graph[0]
    b = Builder(graph, "trainables")
    sizes = [_size(value) for value in single]
    pieces = b.ops("Split", flat, b.ints(sizes), outputs=count, axis=0)
    parts = [b.op("Reshape", piece, b.ints(value.shape.numpy())) for piece, value in zip(pieces, single, strict=True)]
    for value, part in zip(single, parts, strict=True):
        part.shape, part.dtype = value.shape, value.dtype
        ir.convenience.replace_all_uses_with(value, part)
        part.name, value.name = value.name, None
    new = [pieces[0].producer(), *(part.producer() for part in parts)]
    graph.remove(new)
    graph.insert_before(first, new)
    del graph.inputs[:count]
    graph.inputs.append(flat)
    return parts


def _size(value: ir.Value) -> int:
    size = 1
    for d in value.shape.numpy():
        size *= d
    return size


def _labels(graph: ir.Graph) -> ir.Value:
    batch = graph.outputs[0].shape[0]
    labels = ir.Input(LABELS, ir.Shape([batch]), ir.TensorType(ir.DataType.INT64))
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
    passes.TopologicalSortPass()(model)
    return model

"""The official ONNX Runtime training artifacts of a bundle, made from the same forward graph as its own graphs.

onnxruntime-training differentiates the graph itself. What it can't take is written otherwise before: equal weights that
layer norms share, layer norms without their statistics, GELU by tanh, and logits per token.
"""

import json
import math
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from export.autodiff.backward import dims
from export.onnx_builder import Builder
from export.verify import Feed, GraphOutputs, apart, with_hidden
from export.vocabulary import find_head
from ravan.errors import ExportError
from ravan.inputs import Loss
from ravan.layout import Vector, tensors
from ravan.processes import last_words
from ravan.runtime.names import LABELS, LOGITS, TRAINABLES
from ravan.runtime.ort_training import OrtFailure, OrtProcess
from ravan.runtime.session import RuntimeOptions
from ravan.spec import AdapterSpec

LARGEST = 2_000_000_000
"""Bytes of a model that onnxruntime-training takes as one file."""
INSTEAD = "export without --with-ort-training"


def write_artifacts(
    forward: ir.Model, spec: AdapterSpec, start: Vector, folder: Path, python: Path, objective: Loss | None = None
) -> None:
    """Writes ``ravan.bundle_files.ARTIFACTS`` to a bundle's folder.

    Args:
        forward: trainables and batch to logits; left as it is.
        spec: of the trainables.
        start: flat trainables that the checkpoint begins with.
        folder: the bundle's.
        python: one that has onnxruntime-training.
        objective: as for ``train_graph``.

    Raises:
        ExportError: the model is too large, or onnxruntime-training has no gradient for one of its operators.
    """
    size = sum(value.const_value.nbytes for value in forward.graph.initializers.values() if value.const_value)
    if size > LARGEST:
        raise ExportError(
            f"The artifacts of onnxruntime-training hold {LARGEST / 1e9:.0f} GB at most, and this model has "
            f"{size / 1e9:.1f}: {INSTEAD}."
        )
    objective = objective or Loss.CROSS_ENTROPY
    kept = [] if find_head(forward.graph.outputs[0]) else [LOGITS]
    request = {"trained": list(tensors(spec, start)), "kept": kept, "objective": objective}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "forward.onnx"
        ir.save(trainable_model(forward, spec, start, objective), path)
        command = [str(python), "-P", "-m", "export.ort_generate", str(path), str(folder)]
        done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ExportError(f"onnxruntime-training can't make artifacts of this model ({last_words(done)}): {INSTEAD}.")


def verify_artifacts(folder: Path, spec: AdapterSpec, feed: Feed, exact: GraphOutputs, python: Path) -> float:
    """Runs the artifacts and holds them against what the float graphs gave for the same feed.

    Returns:
        The largest difference of a loss, see ``apart``, or of a gradient, relative to the largest value in its tensor.

    Raises:
        ExportError: they do not run.
    """
    batch = with_hidden(folder, feed)
    try:
        with closing(OrtProcess(python, folder, spec, RuntimeOptions(), evaluates=True)) as process:
            loss, gradients = process.train(feed[TRAINABLES], batch)
            losses = loss, process.evaluate(feed[TRAINABLES], batch)
    except OrtFailure as error:
        raise ExportError(f"onnxruntime-training does not run this model's artifacts ({error}): {INSTEAD}.") from error
    wanted, seen = tensors(spec, exact.gradients), tensors(spec, gradients)
    errors = [float(np.abs(seen[name] - x).max() / (np.abs(x).max() or 1)) for name, x in wanted.items()]
    values = feed[LABELS].dtype.kind == "f"
    return max(*errors, *(apart(loss, exact.loss, values=values) for loss in losses))


def require_agreement(difference: float, tolerance: float) -> None:
    """Raises ExportError if the artifacts differ by more than the tolerance, or by what is no number."""
    if not difference <= tolerance:
        raise ExportError(
            f"The artifacts of onnxruntime-training differ from train.onnx by {difference:.1e} "
            f"(tolerance {tolerance:.0e}): {INSTEAD}."
        )


def trainable_model(forward: ir.Model, spec: AdapterSpec, start: Vector, objective: Loss) -> ir.Model:
    """The forward graph as onnxruntime-training takes it: trainables are initializers, logits [rows, classes]."""
    model = forward.clone()
    graph = model.graph
    b = Builder(graph, "ort")
    for node in list(graph):
        if node.op_type == "Gelu" and node.attributes.get_string("approximate", "none") == "tanh":
            _spell_out(b, node)
    start_of_each = tensors(spec, start)
    for value, (name, array) in zip(graph.inputs[: len(start_of_each)], start_of_each.items(), strict=True):
        value.name, value.const_value = name, ir.tensor(array.copy(), name=name)
        graph.register_initializer(value)
    del graph.inputs[: len(start_of_each)]
    if objective is not Loss.MEAN_SQUARED_ERROR:
        graph.outputs[:] = [_in_rows(b, logits) for logits in graph.outputs]
    passes.RemoveUnusedNodesPass()(model)
    passes.ClearMetadataAndDocStringPass()(model)
    for node in graph:
        if node.op_type == "LayerNormalization":
            _complete_layer_norm(b, node)
    graph.sort()
    return model


def _in_rows(b: Builder, logits: ir.Value) -> ir.Value:
    """Logits [batch, length, classes] as [rows, classes]."""
    *several, classes = dims(logits)
    if len(several) == 1:
        return logits
    assert isinstance(classes, int), "the number of classes is fixed"
    rows = b.op("Reshape", logits, b.ints([-1, classes]))
    rows.dtype, rows.shape = ir.DataType.FLOAT, ir.Shape(["rows", classes])
    return rows


def _complete_layer_norm(b: Builder, node: ir.Node) -> None:
    """Names the mean and the deviation, which its gradient reads, and gives the node a scale and a bias of its own.

    The gradients of shared ones, though nobody asks for them, would bear the same name.
    """
    if len(node.outputs) < 3:
        node.resize_outputs(3)
    for i, name in ((1, "mean"), (2, "inverse_deviation")):
        node.outputs[i].name = node.outputs[i].name or f"{node.outputs[0].name}_{name}"
    if len(node.inputs) < 3 or node.inputs[2] is None:
        scale = node.inputs[1]
        assert scale is not None
        assert scale.shape is not None
        node.resize_inputs(3)
        node.replace_input_with(2, b.constant(np.zeros(scale.shape.numpy(), np.float32)))
    for i, value in enumerate(node.inputs[1:], 1):
        if value is not None and value.const_value is not None and len(value.uses()) > 1:
            own = ir.Value(name=f"{value.name}_of_{node.outputs[0].name}", const_value=value.const_value)
            own.shape, own.type = value.shape, value.type
            b.graph.register_initializer(own)
            node.replace_input_with(i, own)


def _spell_out(b: Builder, node: ir.Node) -> None:
    """GELU by tanh in single operators: the gradient that onnxruntime-training knows is the exact GELU's."""
    x, y = node.inputs[0], node.outputs[0]
    cube = b.op("Mul", b.op("Mul", x, x), x)
    inner = b.op("Mul", b.op("Add", x, b.op("Mul", cube, 0.044715)), math.sqrt(2 / math.pi))
    made = b.op("Mul", b.op("Mul", x, 0.5), b.op("Add", b.op("Tanh", inner), 1.0))
    made.shape, made.type, made.name, y.name = y.shape, y.type, y.name, None
    ir.convenience.replace_all_uses_with(y, made, replace_graph_outputs=True)

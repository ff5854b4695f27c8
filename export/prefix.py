"""Splitting a forward graph at the highest hidden state that no trainable changes.

With adapters in the top layers alone, all below is the same for an example in every epoch and round. The graph up to
that hidden state becomes prefix.onnx, and train.onnx starts from it, so that a device may keep it.
"""

from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir
import onnx_ir.passes.common as passes

from export.autodiff.backward import FLOATS, active_values, attribute, dims
from export.quantize import frozen_weight
from ravan.runtime.names import ATTENTION_MASK, DECODER_INPUT_IDS, HIDDEN

BESIDE = {ATTENTION_MASK, DECODER_INPUT_IDS}
"""Inputs that the upper layers read too, and so may go around the lower ones."""


@dataclass(frozen=True)
class Parts:
    """The prefix, raw batch to ``hidden``, and the rest, ``hidden`` and trainables to logits."""

    prefix: ir.Model
    rest: ir.Model


def split_prefix(forward: ir.Model, trained: Collection[str]) -> Parts | None:
    """The two parts of a forward graph whose first inputs are the ``trained``; None if nothing is worth keeping.

    The cut is a float value [batch, length, width] such that the loss depends on the raw input through it alone; an
    attention mask, a decoder's own input and shapes may go around it. Of all such values the last, and only if a
    product with a frozen weight lies before it. Without a mask the length must be fixed: nothing would hide what short
    examples are padded with.
    """
    trainables = len(trained)
    cut = _last_cut(forward.graph, trainables)
    if cut is None:
        return None
    rest = _after(forward.clone(), cut, trainables)
    return None if rest is None else Parts(_before(forward.clone(), cut, trainables), rest)


def _last_cut(graph: ir.Graph, trainables: int) -> str | None:
    """The name of the value after which, in the order of the graph, nothing that came from the raw input lives on."""
    active = active_values(graph, graph.inputs[:trainables])
    living = _of_raw_input(graph, trainables)
    waiting = {value: sum(node.op_type != "Shape" for node, _ in value.uses()) for value in living}
    open_values = {value for value in graph.inputs if value in living}
    masked = any(value.name == ATTENTION_MASK for value in graph.inputs)
    products, found = 0, None
    for node in graph:
        if any(out in active for out in node.outputs):
            continue
        products += node.op_type == "MatMul" and frozen_weight(node.inputs[1]) is not None
        open_values |= {out for out in node.outputs if out in living}
        for value in node.inputs if node.op_type != "Shape" else ():
            if value in waiting:
                waiting[value] -= 1
        open_values = {value for value in open_values if waiting[value]}
        if products and len(open_values) == 1:
            (only,) = open_values
            if _can_be_kept(only, masked=masked):
                found = only.name
    return found


def _can_be_kept(value: ir.Value, *, masked: bool) -> bool:
    """Whether hidden states of several examples can be joined again: [batch, length, width], short ones hidden."""
    if value.dtype not in FLOATS or value.shape is None or len(dims(value)) != 3:
        return False
    return masked or isinstance(dims(value)[1], int)


def _of_raw_input(graph: ir.Graph, trainables: int) -> set[ir.Value]:
    """Values that depend on more of the batch than its shape and what goes beside."""
    found = {value for value in graph.inputs[trainables:] if value.name not in BESIDE}
    for node in graph:
        if node.op_type != "Shape" and any(x in found for x in node.inputs):
            found |= set(node.outputs)
    return found


def _before(model: ir.Model, cut: str, trainables: int) -> ir.Model:
    graph = model.graph
    del graph.inputs[:trainables]
    hidden = _named(graph, cut)
    hidden.name = HIDDEN
    graph.outputs[:] = [hidden]
    passes.RemoveUnusedNodesPass()(model)
    return model


def _after(model: ir.Model, cut: str, trainables: int) -> ir.Model | None:
    """None if a shape is needed that neither the mask nor the hidden state has."""
    graph = model.graph
    old = _named(graph, cut)
    hidden = ir.val(HIDDEN, ir.DataType.FLOAT, old.shape)
    ir.convenience.replace_all_uses_with(old, hidden)
    raw = [value for value in graph.inputs[trainables:] if value.name not in BESIDE]
    mask = next((value for value in graph.inputs if value.name == ATTENTION_MASK), None)
    for node, _ in [use for value in raw for use in value.uses() if use[0].op_type == "Shape"]:
        if mask is not None:
            node.replace_input_with(0, mask)
        elif attribute(node, "start", 0) == 0 and attribute(node, "end", 0) == 1:
            node.replace_input_with(0, hidden)
    graph.inputs.append(hidden)
    passes.RemoveUnusedNodesPass()(model)
    if any(value.uses() for value in raw):
        return None
    for value in raw:
        graph.inputs.remove(value)
    return model


def _named(graph: ir.Graph, name: str) -> ir.Value:
    return next(out for node in graph for out in node.outputs if out.name == name)

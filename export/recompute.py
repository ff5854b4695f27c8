"""Recomputation: the backward pass rebuilds a layer's activations from one kept hidden state (arXiv 1604.06174).

The layers are those of ``export.segments``. For a layer to be rebuilt, the backward nodes read clones of its forward
nodes, which start from the hidden state before the layer. onnxruntime runs a node when it likes once its inputs are
there, so the clones start behind a gate: the hidden state as a value that depends on the gradient arriving at the
layer's end.

What is held is estimated: the forward values that the backward pass reads. Gradients in flight come on top, about three
times the widest value.

It works on the float graph, right after ``differentiate``: there the arriving gradients are known. The products of
clones are quantized afterwards exactly as their originals are.
"""

import math
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from export.autodiff.backward import Backward, Rule, dims
from export.onnx_builder import Builder
from export.segments import Segment, find_segments
from ravan.axes import axis_size
from ravan.errors import ExportError

MOVES = {"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}


@dataclass(frozen=True)
class Budget:
    """How much of the activations may be held for the backward pass.

    Attributes:
        bytes: for one micro-batch, by estimate.
        sizes: of that micro-batch, the graph's dynamic axes by name.
    """

    bytes: int
    sizes: Mapping[str, int]


@dataclass(frozen=True)
class DifferentiatedGraph:
    """A graph with its backward pass, before anything else is made of the gradients.

    Attributes:
        graph: forward and backward nodes.
        batch: its inputs that hold examples; not the trainables.
        end: what the seed of the backward pass is the gradient of: the logits.
        arriving: dL/d value by value, as ``observed`` rules saw it.
        gradients: those of the trainables.
    """

    graph: ir.Graph
    batch: Sequence[ir.Value]
    end: ir.Value
    arriving: Mapping[ir.Value, ir.Value]
    gradients: Sequence[ir.Value]


@dataclass(frozen=True)
class Report:
    """What was done: layers that the backward pass reads, those rebuilt, and the most bytes held before and after."""

    segments: int
    recomputed: int
    bytes_before: int
    bytes_after: int


def observed(rules: Mapping[str, Rule], arriving: MutableMapping[ir.Value, ir.Value]) -> dict[str, Rule]:
    """The same rules, which also note dL/d output of every node they are asked for."""

    def observe(rule: Rule) -> Rule:
        def observing(b: Backward, node: ir.Node, dy: ir.Value) -> Sequence[ir.Value | None]:
            arriving[node.outputs[0]] = dy
            return rule(b, node, dy)

        return observing

    return {name: observe(rule) for name, rule in rules.items()}


def recompute(made: DifferentiatedGraph, budget: Budget) -> Report:
    """Rebuilds as few layers as the budget allows for, in place; none if everything fits.

    Raises:
        ExportError: even with all layers rebuilt more is held; the sentence says how much.
    """
    forward = _ancestors(made.end, made.graph)
    nodes = [node for node in made.graph if node in forward]
    read = {out: _reads(out, forward) for node in nodes for out in node.outputs}
    segments = [
        segment
        for segment in find_segments(nodes, made.batch, made.end)
        if segment.end in made.arriving and any(read[value] for value in _interior(segment))
    ]
    holdings = _holdings(segments, [value for value, readers in read.items() if readers], budget.sizes)
    chosen = _fewest(holdings, budget.bytes)
    b, awaited = Builder(made.graph, "recompute"), set[ir.Value]()
    for i in sorted(chosen, reverse=True):
        arriving = made.arriving[segments[i].end]
        waits = [arriving, *_independent(made.gradients, arriving, awaited)]
        awaited.update(waits)
        _rebuild(made.graph, segments[i], _gate(b, segments[i].begin, waits), read)
    made.graph.sort()
    return Report(len(segments), len(chosen), holdings.most(set()), holdings.most(chosen))


@dataclass(frozen=True)
class _Holdings:
    """Bytes held: outside of all layers, of the hidden state before each layer, of the values read within it."""

    outside: int
    begins: Sequence[int]
    interiors: Sequence[int]

    def during(self, i: int, chosen: set[int]) -> int:
        """In the backward pass of layer i, when the layers behind it are done with."""
        before = sum(self.interiors[j] for j in range(i) if j not in chosen)
        return self.outside + sum(self.begins[: i + 1]) + before + self.interiors[i]

    def most(self, chosen: set[int]) -> int:
        """At the worst time."""
        return max((self.during(i, chosen) for i in range(len(self.begins))), default=self.outside)


def _holdings(segments: Sequence[Segment], read: Iterable[ir.Value], sizes: Mapping[str, int]) -> _Holdings:
    interiors = [_interior(segment) for segment in segments]
    begins = {segment.begin for segment in segments}
    within = [sum(_bytes(value, sizes) for value in interior & set(read)) for interior in interiors]
    outside = set(read) - begins.union(*interiors)
    return _Holdings(sum(_bytes(value, sizes) for value in outside), [_bytes(s.begin, sizes) for s in segments], within)


def _fewest(holdings: _Holdings, limit: int) -> set[int]:
    """The layers to rebuild; the last one never is: its backward pass comes right after its forward pass.

    Raises:
        ExportError: the limit is too low.
    """
    chosen: set[int] = set()
    while holdings.most(chosen) > limit:
        worst = max(range(len(holdings.begins)), key=lambda i: holdings.during(i, chosen), default=0)
        left = [i for i in range(worst) if i not in chosen]
        if not left:
            needed = -(-holdings.most(chosen) // 2**20)
            raise ExportError(
                f"Activations take at least {needed} MiB with every layer recomputed, the budget is "
                f"{limit // 2**20} MiB: allow {needed} MiB, or adapt fewer layers or shorten the examples."
            )
        chosen.add(max(left, key=lambda i: holdings.interiors[i]))
    return chosen


def _bytes(value: ir.Value, sizes: Mapping[str, int]) -> int:
    """Of a value that grows with the batch; 0 for weights, and for the small statistics that have no known shape."""
    shape = [] if value.shape is None else dims(value)
    if all(isinstance(d, int) for d in shape) or value.dtype is None:
        return 0
    try:
        return int(math.prod(axis_size(str(d), sizes) for d in shape) * value.dtype.itemsize)
    except KeyError as unknown:
        same = _same_values(value)  # shape inference may lose an axis where values only move
        if same is None:
            raise ExportError(
                f"The size of axis {unknown.args[0]} of {value.name} is unknown: set no limit on activations."
            ) from None
        return _bytes(same, sizes)


def _same_values(value: ir.Value) -> ir.Value | None:
    """The value that this one holds the values of, in another order or shape."""
    node = value.producer()
    return node.inputs[0] if node is not None and node.op_type in MOVES else None


def _gate(b: Builder, hidden: ir.Value, waits: Sequence[ir.Value]) -> ir.Value:
    """``hidden`` as a value that is not there before ``waits`` are, without a copy.

    Its own shape is joined by the first zero values of each of them: what they hold is only known when they have been
    computed, so no optimizer can fold it.
    """
    zero = b.ints([0])
    nothing = [b.op("Slice", b.op("Reshape", value, b.ints([-1])), zero, zero, zero) for value in waits]
    joined = b.op("Cast", b.op("Concat", *nothing, axis=0), to=ir.DataType.INT64)  # [0]
    gated = b.op("Reshape", hidden, b.op("Concat", b.op("Shape", hidden), joined, axis=0))
    gated.shape, gated.type = hidden.shape, hidden.type
    return gated


def _rebuild(
    graph: ir.Graph, segment: Segment, begin: ir.Value, read: Mapping[ir.Value, list[tuple[ir.Node, int]]]
) -> None:
    """Clones what the backward nodes read of a segment, from ``begin`` on, and lets them read the clones."""
    wanted = {value for value in _interior(segment) if read[value]}
    needed = set(wanted)
    for node in reversed(segment.nodes):
        if not needed.isdisjoint(node.outputs):
            needed.update(x for x in node.inputs if x is not None)
    again = {segment.begin: begin}
    for node in segment.nodes:
        if not needed.isdisjoint(node.outputs):
            clone = _clone(node, [x if x is None else again.get(x, x) for x in node.inputs])
            graph.append(clone)
            again.update(zip(node.outputs, clone.outputs, strict=True))
    for value in (segment.begin, *wanted):
        for reader, index in read[value]:
            reader.replace_input_with(index, again[value])


def _clone(node: ir.Node, inputs: Sequence[ir.Value | None]) -> ir.Node:
    clone = ir.Node(
        node.domain,
        node.op_type,
        inputs,
        node.attributes.values(),
        num_outputs=len(node.outputs),
        name=f"{node.name}_again",
    )
    for out, original in zip(clone.outputs, node.outputs, strict=True):
        out.name = original.name and f"{original.name}_again"
        out.shape, out.type = original.shape, original.type
    return clone


def _interior(segment: Segment) -> set[ir.Value]:
    return {out for node in segment.nodes for out in node.outputs} - {segment.end}


def _reads(value: ir.Value, forward: set[ir.Node]) -> list[tuple[ir.Node, int]]:
    """Which backward nodes read a value, and as which input."""
    return [(use.node, use.idx) for use in value.uses() if use.node not in forward]


def _ancestors(value: ir.Value, graph: ir.Graph) -> set[ir.Node]:
    """The nodes that a value is computed by."""
    needed, found = {value}, set[ir.Node]()
    for node in reversed(graph):
        if not needed.isdisjoint(node.outputs):
            found.add(node)
            needed.update(x for x in node.inputs if x is not None)
    return found


def _independent(gradients: Sequence[ir.Value], of: ir.Value, but: set[ir.Value]) -> list[ir.Value]:
    """The trainables' gradients that can be finished before a layer's backward pass begins, and so should be.

    Left for later they would keep the activations they are computed from.
    """
    reached, waiting = {of}, [of]
    while waiting:
        for use in waiting.pop().uses():
            new = set(use.node.outputs) - reached
            reached |= new
            waiting += new
    return [g for g in gradients if g not in reached and g not in but]

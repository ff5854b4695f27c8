"""The layers of a forward graph, found by its dataflow: between two of them one hidden state is all that passes.

The trunk is what the batch's data becomes once it has met a weight matrix (an embedding, a product, a convolution).
Attention masks and rotary angles have met none, so they may pass by. A value that every path along the trunk goes
through is a cut; a layer goes from a cut to the attention behind it and on to the cut before the next attention.

An encoder and its decoder are two trunks, one after the other. What the encoder gives passes beside the decoder's
trunk, whose layers all read it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import onnx_ir as ir

from export.autodiff.backward import dims
from ravan.runtime.names import DECODER_INPUT_IDS

PRODUCTS = {"MatMul", "Gemm", "Conv"}
LOOKUP = "Gather"


@dataclass(frozen=True)
class Segment:
    """Trunk nodes in order; all they read of the trunk follows from ``begin``, all they give goes on as ``end``."""

    begin: ir.Value
    nodes: tuple[ir.Node, ...]
    end: ir.Value


def find_segments(nodes: Sequence[ir.Node], batch: Iterable[ir.Value], end: ir.Value) -> list[Segment]:
    """One segment per layer, from first to last; the last one goes on to ``end``.

    Where no layer has attention, a product of two trunk values, each part with a product is a segment. What comes
    before the first cut (embeddings) is in none.

    Args:
        nodes: the forward nodes in topological order, each needed for ``end``.
        batch: the inputs that hold examples; not the trainables.
        end: what the loss is computed from.
    """
    batch = list(batch)
    of_decoder = [value for value in batch if value.name == DECODER_INPUT_IDS]
    if not of_decoder:
        return _layers(nodes, batch, end)
    of_encoder = [value for value in batch if value not in of_decoder]
    given = _given(nodes, of_encoder, of_decoder, end)
    encoder = [] if given is None else _layers(_up_to(nodes, given), of_encoder, given)
    return [*encoder, *_layers(nodes, of_decoder, end)]


def _given(
    nodes: Sequence[ir.Node], of_encoder: Sequence[ir.Value], of_decoder: Sequence[ir.Value], end: ir.Value
) -> ir.Value | None:
    """The last value before the decoder that all of the encoder's trunk goes through; None without an encoder."""
    decoder, trunk = _trunk(nodes, of_decoder), _trunk(nodes, of_encoder)
    along = [node for node in nodes if any(out in trunk for out in node.outputs)]
    return next((cut for cut in reversed(_cuts(along, trunk, end)) if cut not in decoder), None)


def _up_to(nodes: Sequence[ir.Node], end: ir.Value) -> list[ir.Node]:
    """The nodes that ``end`` is computed by, in order."""
    needed, found = {end}, list[ir.Node]()
    for node in reversed(nodes):
        if not needed.isdisjoint(node.outputs):
            found.append(node)
            needed.update(x for x in node.inputs if x is not None)
    return found[::-1]


def _layers(nodes: Sequence[ir.Node], batch: Iterable[ir.Value], end: ir.Value) -> list[Segment]:
    """The layers along one trunk."""
    trunk = _trunk(nodes, batch)
    along = [node for node in nodes if any(out in trunk for out in node.outputs)]
    cuts = _cuts(along, trunk, end)
    blocks = _blocks(along, trunk, cuts)  # block i ends with cut i, block i + 1 begins with it
    starts = [i for i, block in enumerate(blocks) if any(_mixes(node, trunk) for node in block)]
    starts = starts or [i for i, block in enumerate(blocks) if any(node.op_type in PRODUCTS for node in block)]
    starts = [_earliest(i, blocks, trunk, cuts) for i in starts if i > 0]
    borders = [*starts, len(blocks)]
    return [
        Segment(cuts[i - 1], tuple(node for block in blocks[i:j] for node in block), [*cuts, end][j - 1])
        for i, j in pairwise(borders)
    ]


def _trunk(nodes: Sequence[ir.Node], batch: Iterable[ir.Value]) -> set[ir.Value]:
    data, trunk = set(batch), set[ir.Value]()
    for node in nodes:
        read = [x for x in node.inputs if x in data]
        if not read or node.op_type == "Shape":  # how much data there is says nothing about it
            continue
        if any(x in trunk for x in read) or _meets_weight(node, data):
            trunk.update(node.outputs)
        data.update(node.outputs)
    return trunk


def _meets_weight(node: ir.Node, data: set[ir.Value]) -> bool:
    """Whether an operand of a product or lookup is a matrix that does not depend on the batch."""
    return node.op_type in PRODUCTS | {LOOKUP} and any(
        sum(isinstance(d, int) and d > 1 for d in dims(x)) >= 2
        for x in node.inputs
        if x is not None and x not in data and x.shape is not None
    )


def _cuts(along: Sequence[ir.Node], trunk: set[ir.Value], end: ir.Value) -> list[ir.Value]:
    """The float values on every path from the trunk's roots to ``end``, in order, without ``end``.

    With ``before`` the number of paths to a value and ``after`` that from it on, all paths go through it where
    before * after is the number of all paths; Python's integers hold these exactly.
    """
    before, after = Counter[ir.Value](), Counter({end: 1})
    for node in along:
        paths = sum(before[x] for x in node.inputs if x in trunk) or 1  # a root begins one
        before.update(dict.fromkeys(node.outputs, paths))
    for node in reversed(along):
        paths = sum(after[out] for out in node.outputs)
        for x in node.inputs:
            if x in trunk:
                after[x] += paths
    values = (out for node in along for out in node.outputs if out.dtype == ir.DataType.FLOAT and out is not end)
    return [value for value in values if before[value] * after[value] == before[end]]


def _blocks(along: Sequence[ir.Node], trunk: set[ir.Value], cuts: Sequence[ir.Value]) -> list[list[ir.Node]]:
    """The trunk's nodes by how many cuts lie before them."""
    passed: defaultdict[ir.Value, int] = defaultdict(int)
    blocks: list[list[ir.Node]] = [[] for _ in range(len(cuts) + 1)]
    borders = set(cuts)
    for node in along:
        block = max((passed[x] for x in node.inputs if x in trunk), default=0)
        blocks[block].append(node)
        for out in node.outputs:
            passed[out] = block + (out in borders)
    return blocks


def _mixes(node: ir.Node, trunk: set[ir.Value]) -> bool:
    """Whether a node multiplies two values of the trunk, as attention does with queries and keys."""
    return node.op_type in PRODUCTS and sum(x in trunk for x in node.inputs) > 1


def _earliest(start: int, blocks: list[list[ir.Node]], trunk: set[ir.Value], cuts: list[ir.Value]) -> int:
    """Where a layer may as well begin: before blocks without a product that read nothing but weights besides.

    After a normalization that ends a layer, as BERT's does, its input is as good a hidden state, and the layer before
    needs no rebuilding of the product behind that input.
    """
    while start > 1 and dims(cuts[start - 2]) == dims(cuts[start - 1]) and _plain(blocks[start - 1], trunk):
        start -= 1
    return start


def _plain(block: list[ir.Node], trunk: set[ir.Value]) -> bool:
    return all(
        node.op_type not in PRODUCTS and all(x is None or x in trunk or x.is_initializer() for x in node.inputs)
        for node in block
    )

"""What an upload holds, tensor by tensor: the exact bytes that would be sent, in words an owner can check."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ravan.layout import Vector
from ravan.sizes import header_size
from ravan.spec import AdapterSpec
from ravan.update import Update
from ravan.wire import WireFormat, packed_size, unpack


@dataclass(frozen=True)
class Content:
    """One tensor of an upload.

    Attributes:
        name: of the layer and its head, or of a tensor that is trained whole.
        shape: of its values.
        bytes: that it takes, its scale and its place in the table of heads included.
        norm: of its values as the server reads them.
        moved: norm of their change from the adapter that the round started from.
    """

    name: str
    shape: tuple[int, ...]
    bytes: int
    norm: float
    moved: float


def contents(spec: AdapterSpec, wire: WireFormat, base: Update, data: bytes) -> list[Content]:
    """Everything in an upload; the sizes add up to it, with the header first.

    Raises:
        UpdateError: the bytes are no upload of this run.
    """
    update = unpack(spec, wire, base, data)
    return [
        Content("header", (), header_size(0), 0.0, 0.0),
        *_heads(spec, wire, base, update),
        *_saved(spec, wire, base, update),
    ]


def _heads(spec: AdapterSpec, wire: WireFormat, base: Update, update: Update) -> Iterator[Content]:
    size = packed_size(spec, wire, 1) - packed_size(spec, wire, 0)
    before = base.sH[update.heads.ravel()]
    layers, heads = np.nonzero(update.heads)
    for layer, head, values, was in zip(layers, heads, update.sH, before, strict=True):
        name = f"{spec.layers[layer].name} s{head} H{head}"
        yield _content(name, (spec.rank, spec.rank), size, values, was)


def _saved(spec: AdapterSpec, wire: WireFormat, base: Update, update: Update) -> Iterator[Content]:
    whole = packed_size(spec, wire, 0) - header_size(0)
    scale = 0 if wire is WireFormat.FP32 else 4
    each = (whole - scale * len(spec.saved)) // max(spec.saved_size, 1)
    start = 0
    for tensor in spec.saved:
        part = slice(start, start + tensor.size)
        size = scale + each * tensor.size
        yield _content(tensor.name, tensor.shape, size, update.saved[part], base.saved[part])
        start += tensor.size


def _content(name: str, shape: tuple[int, ...], size: int, values: Vector, was: Vector) -> Content:
    moved = values.astype(np.float64) - was
    return Content(name, shape, size, float(np.linalg.norm(values.ravel())), float(np.linalg.norm(moved.ravel())))

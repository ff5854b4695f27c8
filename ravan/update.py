"""What a device uploads and the server broadcasts: s_i H_i of some heads, and the saved tensors; and its bytes.

Format, version 1, little endian. Equal updates have equal bytes, and every length follows from the header, so that a
reader knows the size before it allocates anything.

    offset  bytes  content
         0      4  "RVNU"
         4      2  version, 1
         6      2  value type, 0: float32; ``ravan.wire`` has others, for uploads
         8     32  sha256 of the adapter spec
        40      4  rank
        44      4  n, number of heads carried
        48      4  number of saved values
        52    4 n  layer and head index of each, 2 bytes each, ascending
              ...  s_i H_i of each, rank * rank values
              ...  the saved values
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravan.errors import MalformedUpdate, NotFinite, UnknownHead, WrongFormat, WrongShape, WrongSpec
from ravan.layout import H_view, Vector, s_view, saved_view, trainables
from ravan.sizes import HEADER, encoded_size, header_size
from ravan.spec import AdapterSpec

MAGIC = b"RVNU"
VERSION = 1
FLOAT32 = 0
"""The value type of exact updates."""


@dataclass(frozen=True)
class Update:
    """s_i H_i of the heads in ``heads`` and the saved tensors, all float32.

    Attributes:
        heads: which heads are carried, [layers, heads] bool.
        sH: their products s_i H_i in the order of the mask, [n, rank, rank].
        saved: the saved tensors' values, flat.
    """

    heads: NDArray[np.bool_]
    sH: Vector
    saved: Vector

    @classmethod
    def of(cls, spec: AdapterSpec, flat: Vector, heads: NDArray[np.bool_]) -> "Update":
        """The update of a client that trained ``heads`` and ended at the trainables ``flat``."""
        products = H_view(spec, flat)[heads] * s_view(spec, flat)[heads][:, None, None]
        return cls(heads.copy(), products, saved_view(spec, flat).copy())

    @classmethod
    def full(cls, sH: Vector, saved: Vector) -> "Update":
        """An update that carries every head of sH [layers, heads, rank, rank]: the server's broadcast."""
        return cls(np.ones(sH.shape[:2], np.bool_), sH.reshape(-1, *sH.shape[2:]), saved)

    def trainables(self, spec: AdapterSpec) -> Vector:
        """The flat vector a round starts from; heads that are not carried start at H = 0."""
        sH = np.zeros(spec.H_shape, np.float32)
        sH[self.heads] = self.sH
        return trainables(spec, sH, self.saved)


def encode(spec: AdapterSpec, update: Update) -> bytes:
    """The update's bytes, exact: decoding gives the same values bit for bit."""
    header = write_header(spec, update.heads, FLOAT32)
    return b"".join([header, update.sH.astype("<f4").tobytes(), update.saved.astype("<f4").tobytes()])


def write_header(spec: AdapterSpec, heads: NDArray[np.bool_], kind: int) -> bytes:
    """What stands before the values: the header, and which heads [layers, heads] are carried."""
    layer, head = np.nonzero(heads)
    table = np.stack([layer, head], axis=1).astype("<u2")
    header = HEADER.pack(MAGIC, VERSION, kind, bytes.fromhex(spec.digest), spec.rank, len(layer), spec.saved_size)
    return header + table.tobytes()


def decode(spec: AdapterSpec, data: bytes) -> Update:
    """Reads and checks an update.

    Raises:
        UpdateError: see ``read_header``.
        NotFinite: NaN or Inf among the values.
    """
    heads = read_header(spec, data, FLOAT32, lambda count: encoded_size(spec, count))
    count = int(heads.sum())
    values = np.frombuffer(data, "<f4", offset=header_size(count)).astype(np.float32)
    if not np.isfinite(values).all():
        raise NotFinite("The update holds NaN or Inf: lower the learning rate or check the data.")
    split = count * spec.rank**2
    return Update(heads, values[:split].reshape(count, spec.rank, spec.rank), values[split:])


def read_header(spec: AdapterSpec, data: bytes, kind: int, size: Callable[[int], int]) -> NDArray[np.bool_]:
    """Checks all that stands before the values; returns which heads [layers, heads] are carried.

    Args:
        spec: of the run.
        data: the whole update.
        kind: the value type it must have.
        size: bytes of an update with so many heads.

    Raises:
        MalformedUpdate: not this format or version, or cut short.
        WrongFormat: of another value type.
        WrongSpec: made for another adapter spec.
        WrongShape: H or the saved part has other dimensions.
        UnknownHead: a head outside the spec, or heads out of order.
    """
    if len(data) < HEADER.size or data[:4] != MAGIC:
        raise MalformedUpdate("These bytes are no Ravan update: send what the edge client writes.")
    _, version, found, digest, rank, count, saved_size = HEADER.unpack_from(data)
    if version != VERSION:
        raise MalformedUpdate(f"Update format {version} is not known here, only {VERSION}: update the software.")
    if found != kind:
        raise WrongFormat(f"The update has values of type {found}, this run's have type {kind}: update the software.")
    if digest != bytes.fromhex(spec.digest):
        raise WrongSpec("The update was made for another adapter spec: fetch this run's bundle and train again.")
    if rank != spec.rank or saved_size != spec.saved_size:
        raise WrongShape(
            f"H is {rank} x {rank} with {saved_size} saved values, expected {spec.rank} x {spec.rank} "
            f"with {spec.saved_size}: fetch this run's bundle and train again."
        )
    if count > spec.s_size or len(data) != size(count):
        raise MalformedUpdate(f"The update has {len(data)} bytes, which does not fit its {count} heads: send it again.")
    return _read_heads(spec, data, count)


def _read_heads(spec: AdapterSpec, data: bytes, count: int) -> NDArray[np.bool_]:
    table = np.frombuffer(data, "<u2", 2 * count, HEADER.size).reshape(count, 2).astype(np.int64)
    if count and (table >= [len(spec.layers), spec.heads]).any():
        layer, head = table[(table >= [len(spec.layers), spec.heads]).any(axis=1)][0]
        raise UnknownHead(f"Layer {layer} has no head {head} in this run: fetch this run's bundle and train again.")
    position = table[:, 0] * spec.heads + table[:, 1]
    if (np.diff(position) <= 0).any():
        raise UnknownHead("A head stands twice or out of order: send what the edge client writes.")
    heads = np.zeros(spec.s_size, np.bool_)
    heads[position] = True
    return heads.reshape(len(spec.layers), spec.heads)

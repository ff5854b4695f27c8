"""How values travel from device to server: exact, or as a coded change that takes a half or a quarter of the bytes.

A coded update says, part by part (a head, or one saved tensor), how far s_i H_i moved from the adapter that the round
started from, in coefficients of a step that is the part's own. What the coding leaves out is added to the device's next
upload, so that in the long run nothing is lost (error feedback: Seide et al., Interspeech 2014; Karimireddy et al.,
ICML 2019, arXiv 1901.09847).

Format, little endian, beside the exact one of ``ravan.update``:

    offset  bytes  content
         0    ...  header and heads as there; value type 1: float16, 2: int8
              ...  a scale for each head and for each saved tensor, float32, neither negative nor NaN or Inf
              ...  the coefficients of each head, rank * rank, and of each saved tensor

A value is base + scale * coefficient, formed in float64 and rounded to float32: the same to the bit on every machine.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ravan.errors import NotFinite, WrongScale
from ravan.layout import Vector
from ravan.sizes import encoded_size, header_size
from ravan.spec import AdapterSpec
from ravan.update import FLOAT32, Update, decode, encode, read_header, write_header

_LARGEST_SCALE = float(np.finfo(np.float32).max)


class WireFormat(StrEnum):
    """How the values of uploads are coded.

    FP32 is exact. FP16 keeps 11 bits of every coefficient, INT8 steps of 1/127 of the part's largest change.
    """

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


class _Coding(NamedTuple):
    """A value type; ``steps`` is the coefficient of the largest change, ``most`` what a coefficient can be."""

    kind: int
    dtype: np.dtype[Any]
    steps: float
    most: float


_CODINGS = {
    WireFormat.FP16: _Coding(1, np.dtype("<f2"), 2.0**15, 65504.0),
    WireFormat.INT8: _Coding(2, np.dtype("i1"), 127.0, 127.0),
}
VALUE_TYPES = {WireFormat.FP32: FLOAT32} | {name: coding.kind for name, coding in _CODINGS.items()}


@dataclass(frozen=True)
class Packed:
    """An upload's bytes.

    Attributes:
        data: what is sent.
        left_out: what the server does not learn from it of every head and saved tensor, for the next upload.
    """

    data: bytes
    left_out: Update


def nothing_left_out(spec: AdapterSpec) -> Update:
    """Zeros for every head and the saved tensors: where a device begins."""
    return Update.full(np.zeros(spec.H_shape, np.float32), np.zeros(spec.saved_size, np.float32))


def packed_size(spec: AdapterSpec, wire: WireFormat, heads: int) -> int:
    """Bytes of an upload that carries so many heads."""
    if wire is WireFormat.FP32:
        return encoded_size(spec, heads)
    values = heads * spec.rank**2 + spec.saved_size
    return header_size(heads) + 4 * (heads + len(spec.saved)) + _CODINGS[wire].dtype.itemsize * values


def largest_upload(spec: AdapterSpec, wire: WireFormat) -> int:
    """Bytes of an upload that carries every head: no valid one is longer."""
    return packed_size(spec, wire, spec.s_size)


def pack(spec: AdapterSpec, wire: WireFormat, base: Update, update: Update, left_out: Update) -> Packed:
    """The bytes of what a device trained from ``base``, with what its earlier uploads left out.

    Heads that the update does not carry keep what they left out. ``base`` and ``left_out`` carry every head.
    """
    if wire is WireFormat.FP32:
        return Packed(encode(spec, update), left_out)
    coding, rest = _CODINGS[wire], Update(left_out.heads, left_out.sH.copy(), left_out.saved.copy())
    scales, coefficients = [], []
    for before, after, missing in zip(
        _parts(spec, update.heads, base), _carried(spec, update), _parts(spec, update.heads, rest), strict=True
    ):
        wanted = np.add(after, missing, dtype=np.float64)
        scale, steps = _quantized(coding, wanted - before)
        with np.errstate(over="ignore", invalid="ignore"):  # the server refuses what is beyond float32
            missing[:] = wanted - _value(before, scale, steps)
        scales.append(scale)
        coefficients.append(steps.tobytes())
    header = write_header(spec, update.heads, coding.kind)
    return Packed(b"".join([header, np.array(scales, "<f4").tobytes(), *coefficients]), rest)


def unpack(spec: AdapterSpec, wire: WireFormat, base: Update, data: bytes) -> Update:
    """Reads and checks an upload; ``base`` carries every head.

    Raises:
        UpdateError: see ``ravan.update.decode``.
        WrongFormat: coded in another way than ``wire``.
        WrongScale: a scale is negative, NaN or Inf.
        NotFinite: NaN or Inf among the coefficients or the values they amount to.
    """
    if wire is WireFormat.FP32:
        return decode(spec, data)
    coding = _CODINGS[wire]
    heads = read_header(spec, data, coding.kind, lambda count: packed_size(spec, wire, count))
    count = int(heads.sum())
    scales = np.frombuffer(data, "<f4", count + len(spec.saved), header_size(count))
    if not np.isfinite(scales).all() or np.signbit(scales).any():
        raise WrongScale("A scale of the update is negative, NaN or Inf: send what the edge client writes.")
    coefficients = np.frombuffer(data, coding.dtype, offset=header_size(count) + scales.nbytes)
    values = np.empty(coefficients.size, np.float32)
    start = 0
    for before, scale in zip(_parts(spec, heads, base), scales, strict=True):
        part = slice(start, start + before.size)
        with np.errstate(over="ignore", invalid="ignore"):  # found by the next check
            values[part] = _value(before, scale, coefficients[part])
        start += before.size
    if not np.isfinite(values).all():
        raise NotFinite("The update holds NaN or Inf: lower the learning rate or check the data.")
    split = count * spec.rank**2
    return Update(heads, values[:split].reshape(count, spec.rank, spec.rank), values[split:])


def _value(before: Vector, scale: np.float32, coefficients: NDArray[Any]) -> Vector:
    """What the server takes a part's coefficients for."""
    value: Vector = (before + np.float64(scale) * coefficients.astype(np.float64)).astype(np.float32)
    return value


def _quantized(coding: _Coding, change: NDArray[np.float64]) -> tuple[np.float32, NDArray[Any]]:
    """The scale of a part's change and its coefficients."""
    scale = np.float32(min(np.abs(change).max() / coding.steps, _LARGEST_SCALE))
    steps = change / np.float64(scale) if scale else np.zeros_like(change)
    if coding.dtype.kind == "i":
        steps = np.rint(steps)
    return scale, np.clip(steps, -coding.most, coding.most).astype(coding.dtype)


def _parts(spec: AdapterSpec, heads: NDArray[np.bool_], whole: Update) -> Iterator[Vector]:
    """Flat views of the heads in a mask [layers, heads] and of every saved tensor, of an update with every head."""
    for position in np.flatnonzero(heads):
        yield whole.sH[position].reshape(-1)
    yield from _saved(spec, whole)


def _carried(spec: AdapterSpec, update: Update) -> Iterator[Vector]:
    """The same of an update that carries these heads alone."""
    yield from update.sH.reshape(len(update.sH), spec.rank**2)
    yield from _saved(spec, update)


def _saved(spec: AdapterSpec, update: Update) -> Iterator[Vector]:
    start = 0
    for tensor in spec.saved:
        yield update.saved[start : start + tensor.size]
        start += tensor.size

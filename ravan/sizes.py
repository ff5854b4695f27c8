"""What an update's bytes say without an array, for whoever loads no numpy: sizes and heads; see ``ravan.update``."""

import struct

from ravan.spec import AdapterSpec

HEADER, PLACE = struct.Struct("<4sHH32sIII"), struct.Struct("<HH")
VALUE_TYPES = ("fp32", "fp16", "int8")
"""By the number that stands for each in the header."""


def header_size(heads: int) -> int:
    """Bytes of the header and the table of so many heads."""
    return HEADER.size + 4 * heads


def encoded_size(spec: AdapterSpec, heads: int) -> int:
    """Bytes of an update that carries so many heads."""
    return header_size(heads) + 4 * (heads * spec.rank**2 + spec.saved_size)


def largest_size(spec: AdapterSpec) -> int:
    """Bytes of an update that carries every head: no valid update is longer."""
    return encoded_size(spec, spec.s_size)


def heads_of(data: bytes) -> list[tuple[int, int]]:
    """Layer and head of each that an update carries, of bytes that this machine made itself."""
    count = HEADER.unpack_from(data)[5]
    return [PLACE.unpack_from(data, HEADER.size + PLACE.size * i) for i in range(count)]


def value_type_of(data: bytes) -> str:
    """How the values of such an update are coded, as ``ravan.wire.WireFormat`` names it."""
    return VALUE_TYPES[HEADER.unpack_from(data)[2]]

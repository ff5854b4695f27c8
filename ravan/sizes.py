"""How many bytes an update takes, without an array: what a device must not receive more than, see ``ravan.update``."""

import struct

from ravan.spec import AdapterSpec

HEADER = struct.Struct("<4sHH32sIII")


def header_size(heads: int) -> int:
    """Bytes of the header and the table of so many heads."""
    return HEADER.size + 4 * heads


def encoded_size(spec: AdapterSpec, heads: int) -> int:
    """Bytes of an update that carries so many heads."""
    return header_size(heads) + 4 * (heads * spec.rank**2 + spec.saved_size)


def largest_size(spec: AdapterSpec) -> int:
    """Bytes of an update that carries every head: no valid update is longer."""
    return encoded_size(spec, spec.s_size)

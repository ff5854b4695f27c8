"""A text or a row of numbers in every disguise in which it might leave a device."""

import base64
import binascii
import bz2
import codecs
import lzma
import urllib.parse
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

DTYPES = ("u1", "<u2", ">u2", "<u4", ">u4", "<u8", ">u8", "<f2", "<f4", ">f4", "<f8", ">f8")
STARTS = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda", b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\x00")
LONGEST = 1 << 20


def disguises(text: str) -> Iterator[tuple[str, bytes]]:
    """The text in codes that keep its bytes together."""
    for encoding in ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "utf-7", "cp037"):
        for how, changed in (("", text), ("upper ", text.upper()), ("lower ", text.lower()), ("reversed ", text[::-1])):
            yield how + encoding, changed.encode(encoding)
    plain = text.encode()
    yield "rot13", codecs.encode(text, "rot13").encode()
    yield "url", urllib.parse.quote(text, safe="").encode()
    yield "hex", binascii.hexlify(plain)
    yield "HEX", binascii.hexlify(plain).upper()
    yield "inverted", bytes(255 - b for b in plain)
    for name, encode, group in (("base64", base64.b64encode, 3), ("urlsafe", base64.urlsafe_b64encode, 3),
                                ("base32", base64.b32encode, 5), ("base85", base64.b85encode, 4)):  # fmt: skip
        for shift in range(group):  # however it stands to the groups that are coded together
            whole = plain[shift : shift + (len(plain) - shift) // group * group]
            yield f"{name} from byte {shift}", encode(whole)
    yield from numbers(list(plain), "bytes as ")


def numbers(values: Sequence[int], how: str = "") -> Iterator[tuple[str, bytes]]:
    """Numbers as arrays of any type, as varints, and written out."""
    for dtype in DTYPES:
        if max(values) < 256 or dtype != "u1":
            yield f"{how}{dtype}", np.array(values).astype(dtype).tobytes()
    yield f"{how}scaled f4", (np.array(values, np.float32) / 255).tobytes()
    yield f"{how}varints", b"".join(map(varint, values))
    for separator in (",", ", ", " ", "\n"):
        yield f"{how}text by {separator!r}", separator.join(map(str, values)).encode()


def varint(value: int) -> bytes:
    """As protobuf packs it."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def unpacked(data: bytes) -> Iterator[bytes]:
    """What any compressed stream inside the bytes holds."""
    for start in STARTS:
        position = data.find(start)
        while position >= 0:
            for opened in (zlib.decompressobj(47), bz2.BZ2Decompressor(), lzma.LZMADecompressor()):
                try:
                    yield opened.decompress(data[position : position + LONGEST], LONGEST)
                except (zlib.error, OSError, lzma.LZMAError, EOFError):
                    continue
            position = data.find(start, position + 1)

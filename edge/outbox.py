"""A finished update on disk, until the server has given its receipt or refused it for good.

One file, so that the update and what its coding left out are there together or not at all: sha256 of all that follows,
three lengths, then the ``UploadHeader`` it is sent with, its bytes, and the rest as ``edge.left_out`` keeps it.
"""

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

import structlog

from protos.ravan.v1 import fleet_pb2 as pb
from ravan.faults import reached
from ravan.files import write_atomically

log = structlog.get_logger()
SECRET = 0o600
_LENGTHS = struct.Struct("<IQQ")


@dataclass(frozen=True)
class Finished:
    """An update that is to be uploaded.

    Attributes:
        header: what its upload begins with.
        data: its bytes.
        rest: what its coding left out; empty for an exact one.
    """

    header: pb.UploadHeader
    data: bytes
    rest: bytes

    def write(self, path: Path) -> None:
        """Puts it into the outbox, durably."""
        header = self.header.SerializeToString()
        lengths = _LENGTHS.pack(len(header), len(self.data), len(self.rest))
        body = b"".join([lengths, header, self.data, self.rest])
        write_atomically(path, hashlib.sha256(body).digest() + body, SECRET)
        reached("update-finished")

    @classmethod
    def read(cls, path: Path) -> "Finished | None":
        """What is in the outbox; a file that is not as it was written is dropped, which a broken disk may cause."""
        try:
            found = path.read_bytes()
        except FileNotFoundError:
            return None
        digest, body = found[:32], memoryview(found)[32:]
        if len(body) < _LENGTHS.size or hashlib.sha256(body).digest() != digest:
            log.warning("finished update dropped", reason="its file is damaged")
            path.unlink()
            return None
        header_size, size, rest_size = _LENGTHS.unpack_from(body)
        start = _LENGTHS.size + header_size
        header = pb.UploadHeader.FromString(bytes(body[_LENGTHS.size : start]))
        return cls(header, bytes(body[start : start + size]), bytes(body[start + size : start + size + rest_size]))

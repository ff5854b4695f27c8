"""Updates, adapters and other bytes by their sha256: what every store of them does, and the one in a folder."""

import hashlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from ravan.files import move_atomically, sync_folder, write_atomically
from server.errors import NotFound

PIECE = 1 << 20  # bytes


class Blobs(Protocol):
    """Content-addressed bytes, durable once they are put; one contract test suite holds for every implementation."""

    def put(self, data: bytes) -> str:
        """Stores bytes and returns their sha256."""
        ...

    def put_file(self, file: BinaryIO, sha256: str) -> None:
        """Stores a file of this sha256 without reading it whole."""
        ...

    def get(self, sha256: str) -> bytes:
        """The bytes of a blob.

        Raises:
            NotFound: there is no such blob.
        """
        ...

    def pieces(self, sha256: str, offset: int = 0) -> Iterator[bytes]:
        """A blob's bytes from an offset on, in pieces of a MiB at most.

        Raises:
            NotFound: there is no such blob.
        """
        ...

    def size(self, sha256: str) -> int:
        """How many bytes a blob has.

        Raises:
            NotFound: there is no such blob.
        """
        ...

    def names(self) -> list[str]:
        """The sha256 of every blob."""
        ...

    def drop(self, sha256: str) -> None:
        """Removes a blob if it is there."""


class FileBlobs:
    """``Blobs`` as files of one folder.

    A blob that is there is whole: it is written under another name, synced, and renamed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for first in range(256):
            (folder / f"{first:02x}").mkdir(exist_ok=True)
        sync_folder(folder)
        for leftover in folder.glob("??/.*.tmp"):  # of writes that a crash cut off
            leftover.unlink()

    def path(self, sha256: str) -> Path:
        """Where a blob is."""
        return self._folder / sha256[:2] / sha256

    def put(self, data: bytes) -> str:
        """See ``Blobs``."""
        sha256 = hashlib.sha256(data).hexdigest()
        path = self.path(sha256)
        write_atomically(path, data)
        return sha256

    def adopt(self, file: Path, sha256: str) -> None:
        """Takes over a file with the bytes of this sha256, which need not be written again then."""
        move_atomically(file, self.path(sha256))

    def put_file(self, file: BinaryIO, sha256: str) -> None:
        """See ``Blobs``."""
        path = self.path(sha256)
        fresh = path.with_name(f".{sha256}.{secrets.token_hex(4)}.tmp")
        file.seek(0)
        try:
            with fresh.open("xb") as out:
                shutil.copyfileobj(file, out, PIECE)
            move_atomically(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)

    def get(self, sha256: str) -> bytes:
        """See ``Blobs``."""
        try:
            return self.path(sha256).read_bytes()
        except FileNotFoundError:
            raise missing(sha256) from None

    def pieces(self, sha256: str, offset: int = 0) -> Iterator[bytes]:
        """See ``Blobs``."""
        try:
            file = self.path(sha256).open("rb")
        except FileNotFoundError:
            raise missing(sha256) from None
        with file:
            file.seek(offset)
            while piece := file.read(PIECE):
                yield piece

    def size(self, sha256: str) -> int:
        """See ``Blobs``."""
        try:
            return self.path(sha256).stat().st_size
        except FileNotFoundError:
            raise missing(sha256) from None

    def names(self) -> list[str]:
        """See ``Blobs``."""
        return [path.name for path in self._folder.glob("??/*") if not path.name.startswith(".")]

    def drop(self, sha256: str) -> None:
        """See ``Blobs``."""
        self.path(sha256).unlink(missing_ok=True)


def missing(sha256: str) -> NotFound:
    """The refusal for a blob that is not there."""
    return NotFound(f"Blob {sha256} is not stored any more: it was dropped after its round.")

"""Uploads that are not whole yet, on disk, so that a device can go on where its line broke."""

import os
from collections.abc import Iterable
from pathlib import Path

from ravan.files import sync_folder

_DIGEST = 32  # bytes of sha256 before the data


class Partials:
    """A folder with at most one file for each device's part in a round, so that what it takes is bounded.

    A file holds the sha256 of the whole update, then its first bytes. Nothing of it is trusted: the whole is checked
    when it is complete.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)

    def open(self, receipt: str, sha256: str, offset: int) -> "Partial | None":
        """The upload of a part, to go on at ``offset``; None if less than that is here."""
        path = self._path(receipt)
        if offset == 0:
            path.write_bytes(bytes.fromhex(sha256))
        elif self._held(path, sha256) < offset:
            return None
        return Partial(path, offset)

    def held(self, receipt: str, sha256: str) -> int:
        """Bytes of this update that are here, durably."""
        path = self._path(receipt)
        held = self._held(path, sha256)
        if held:
            with path.open("rb") as file:
                os.fsync(file.fileno())
            sync_folder(self._folder)
        return held

    def drop(self, receipt: str) -> None:
        """Removes what there is of a part's upload."""
        self._path(receipt).unlink(missing_ok=True)

    def keep(self, receipts: Iterable[str]) -> None:
        """Removes all but those of these parts."""
        wanted = {self._path(receipt) for receipt in receipts}
        for path in set(self._folder.iterdir()) - wanted:
            path.unlink()

    def _path(self, receipt: str) -> Path:
        return self._folder / receipt.replace("/", ".")

    def _held(self, path: Path, sha256: str) -> int:
        try:
            with path.open("rb") as file:
                if file.read(_DIGEST) != bytes.fromhex(sha256):
                    return 0
                return file.seek(0, os.SEEK_END) - _DIGEST
        except FileNotFoundError:
            return 0


class Partial:
    """One upload while its bytes come in."""

    def __init__(self, path: Path, offset: int) -> None:
        self._file = path.open("r+b", buffering=0)
        self._file.truncate(_DIGEST + offset)
        self._file.seek(_DIGEST + offset)
        self.size = offset

    def add(self, piece: bytes) -> None:
        """Writes the next bytes."""
        rest = memoryview(piece)
        while rest:  # a signal or a disk that fills up may cut a write short
            rest = rest[self._file.write(rest) :]
        self.size += len(piece)

    def read(self) -> bytes:
        """All of it."""
        self._file.seek(_DIGEST)
        return self._file.read()

    def close(self) -> None:
        """Keeps what is there."""
        self._file.close()

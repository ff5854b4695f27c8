"""Uploads that are not whole yet, on disk, so that a device can go on where its line broke."""

import os
from collections.abc import Iterable
from pathlib import Path

from ravan.files import sync_folder


class Partials:
    """A folder with at most one file for each device's part in a round, so that what it takes is bounded.

    May be used from any thread; two uploads of one part may not go on at once.

    A file is named after the part and the sha256 of the whole update, and holds its first bytes. Nothing of it is
    trusted: the whole is checked when it is complete.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)
        self._sha256: dict[str, str] = {}
        """Of every part that there is a file of, by its name."""
        for path in folder.iterdir():
            name, _, self._sha256[name] = path.name.rpartition(".")

    def open(self, receipt: str, sha256: str, offset: int) -> "Partial | None":
        """The upload of a part, to go on at ``offset``; None if less than that is here."""
        path = self._path(receipt, sha256)
        if offset == 0:
            self.drop(receipt)
            self._sha256[_name(receipt)] = sha256
            path.touch()
        elif _size(path) < offset:
            return None
        return Partial(path, offset)

    def held(self, receipt: str, sha256: str) -> int:
        """Bytes of this update that are here, durably; what another call takes away meanwhile is not."""
        path = self._path(receipt, sha256)
        held = _size(path)
        try:
            if held:
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                sync_folder(self._folder)
        except FileNotFoundError:
            return 0
        return held

    def drop(self, receipt: str) -> None:
        """Removes what there is of a part's upload."""
        sha256 = self._sha256.pop(_name(receipt), None)
        if sha256 is not None:
            self._path(receipt, sha256).unlink(missing_ok=True)

    def keep(self, receipts: Iterable[str]) -> None:
        """Removes all but those of these parts."""
        for name in set(self._sha256) - {_name(receipt) for receipt in receipts}:
            self.drop(name)

    def _path(self, receipt: str, sha256: str) -> Path:
        return self._folder / f"{_name(receipt)}.{sha256}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _name(receipt: str) -> str:
    return receipt.replace("/", ".")


class Partial:
    """One upload while its bytes come in.

    Attributes:
        path: of the file with the bytes that are here.
        size: how many they are.
    """

    def __init__(self, path: Path, offset: int) -> None:
        self.path = path
        self._file = path.open("r+b", buffering=0)
        self._file.truncate(offset)
        self._file.seek(offset)
        self.size = offset

    def add(self, piece: bytes) -> None:
        """Writes the next bytes."""
        rest = memoryview(piece)
        while rest:  # a signal or a disk that fills up may cut a write short
            rest = rest[self._file.write(rest) :]
        self.size += len(piece)

    def read(self) -> bytes:
        """All of it."""
        self._file.seek(0)
        return self._file.read()

    def close(self) -> None:
        """Keeps what is there."""
        self._file.close()

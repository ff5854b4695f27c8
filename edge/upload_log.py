"""The owner's own record of what left the device: a line for every upload that began, and one for what became of it.

JSON lines, appended and synced, in files of a bounded size. The line that says that an upload begins is on disk before
its first byte is sent, so that the record tells of bytes that left even where the client was killed meanwhile.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

UPLOADS = "uploads.jsonl"
LARGEST, KEPT = 1 << 20, 4
"""Bytes of a file before the next is begun, and how many older ones are kept: about 10,000 uploads."""
BEGAN, RECEIVED = "began", "received"


@dataclass(frozen=True)
class Upload:
    """One update as it was sent.

    Attributes:
        device: the device's name.
        run: the run's id.
        round: its number.
        bundle: the bundle's id.
        bytes: of the update.
        sha256: of these bytes, hex.
        heads: which were carried, their numbers by the layer's name.
        wire: how values were coded.
    """

    device: str
    run: str
    round: int
    bundle: str
    bytes: int
    sha256: str
    heads: Mapping[str, list[int]]
    wire: str


class UploadLog:
    """The record of a home, written by its client alone."""

    def __init__(self, home: Path, largest: int = LARGEST) -> None:
        self._path, self._largest = home / UPLOADS, largest

    def began(self, upload: Upload) -> None:
        """Notes that it is about to be sent."""
        self._append({"outcome": BEGAN, **asdict(upload)})

    def ended(self, upload: Upload, outcome: str, receipt: str = "") -> None:
        """Notes what became of it: RECEIVED with the server's receipt, or the code of its refusal."""
        self._append({"outcome": outcome, "receipt": receipt, **asdict(upload)})

    def _append(self, fields: Mapping[str, object]) -> None:
        line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **fields}).encode() + b"\n"
        if self._path.exists() and self._path.stat().st_size + len(line) > self._largest:
            self._rotate()
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            torn = os.fstat(descriptor).st_size and not _ends_a_line(self._path)
            os.write(descriptor, (b"\n" if torn else b"") + line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _rotate(self) -> None:
        for number in range(KEPT, 0, -1):
            older = self._path if number == 1 else _older(self._path, number - 1)
            if older.exists():
                older.replace(_older(self._path, number))


def read_uploads(home: Path) -> Iterator[dict[str, object]]:
    """Every upload in the record, the oldest first, with its last outcome and the times of its beginning and end.

    A line that was torn by a power cut is left out.
    """
    found: dict[tuple[object, ...], dict[str, object]] = {}
    for line in _lines(home / UPLOADS):
        try:
            fields = json.loads(line)
            key = tuple(fields[name] for name in ("device", "run", "round", "sha256"))
        except (ValueError, KeyError, TypeError):
            continue
        before = found.pop(key, {"began": fields["time"]})
        ended = None if fields["outcome"] == BEGAN else fields.pop("time")
        found[key] = {**before, **fields, "ended": ended}
    for upload in found.values():
        upload.pop("time", None)
        yield upload


def _lines(path: Path) -> Iterator[str]:
    for file in (*(_older(path, number) for number in range(KEPT, 0, -1)), path):
        if file.exists():
            yield from file.read_text("utf-8", "replace").splitlines()


def _older(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"

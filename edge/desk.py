"""Where one device's work lies from check-in to receipt, so that every part of it outlives a crash.

base        the adapter that the round starts from
share       what the device takes on of the task, see ``edge.trial``
checkpoint  where the local run is, see ``edge.checkpoint``
finished    the outbox, see ``edge.outbox``
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

from edge.outbox import SECRET, Finished
from ravan.errors import MalformedUpdate
from ravan.faults import reached
from ravan.files import drop_temporary, sync_folder, write_atomically

BASE, SHARE, CHECKPOINT, FINISHED = "base", "share", "checkpoint", "finished"


class Desk:
    """One device's; what an earlier process left half written is gone once it is made.

    Attributes:
        folder: made if it is not there.
        left_out: file of what the device's uploads left out so far.
    """

    def __init__(self, folder: Path, left_out: Path) -> None:
        if not folder.exists():
            folder.mkdir(mode=0o700, parents=True)
            sync_folder(folder.parent)
        drop_temporary(folder)
        self.folder, self.left_out = folder, left_out

    def base(self, sha256: str, fetch: Callable[[], bytes]) -> Path:
        """The file of the adapter with this hash, fetched if it is not here.

        Raises:
            MalformedUpdate: what is fetched has another hash.
        """
        path = self.folder / BASE
        if not (path.exists() and _sha256(path.read_bytes()) == sha256):
            received = fetch()
            if _sha256(received) != sha256:
                raise MalformedUpdate("The adapter does not match its sha256: ask the operator to look at the server.")
            write_atomically(path, received, SECRET, durably=False)  # its hash is looked at before every use
            reached("base-kept")
        return path

    @property
    def finished(self) -> Finished | None:
        """What is in the outbox."""
        return Finished.read(self.folder / FINISHED)

    @property
    def has_finished(self) -> bool:
        """Whether there is an update in the outbox."""
        return (self.folder / FINISHED).exists()

    def settle(self, finished: Finished) -> None:
        """After the receipt: what the coding left out is kept for the next upload, and the rest is over.

        Cut off between the two, the same update is uploaded once more, and gets the same receipt.
        """
        if finished.rest:
            write_atomically(self.left_out, finished.rest, SECRET)
            reached("rest-kept")
        self.clear()

    def clear(self) -> None:
        """Drops all there is: the task is over."""
        there = [path for name in (FINISHED, CHECKPOINT, SHARE, BASE) if (path := self.folder / name).exists()]
        for path in there:
            path.unlink()
        if there:
            sync_folder(self.folder)
            reached("desk-cleared")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

"""What the coding of a device's uploads left out, on disk until it gets through: error feedback, see ``ravan.wire``.

One file for a device: 32 bytes that name run and bundle, then every head and the saved tensors in the exact update
format. In another run the device begins with nothing. The rest of an upload waits with it in the outbox and gets here
with its receipt, so that no crash loses or doubles it.
"""

import hashlib
from pathlib import Path

import structlog

from ravan.errors import UpdateError
from ravan.spec import AdapterSpec
from ravan.update import Update, decode, encode
from ravan.wire import nothing_left_out

log = structlog.get_logger()


class LeftOut:
    """The rest of one device in one run of one bundle."""

    def __init__(self, path: Path, run_id: str, bundle_id: str) -> None:
        self._path = path
        self._owner = hashlib.sha256(f"{run_id} {bundle_id}".encode()).digest()

    def read(self, spec: AdapterSpec) -> Update:
        """The rest, of every head; nothing where there is none of this run, or none that can be read."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return nothing_left_out(spec)
        if data[: len(self._owner)] != self._owner:
            return nothing_left_out(spec)
        try:
            rest = decode(spec, data[len(self._owner) :])
        except UpdateError as error:
            log.warning("rest of earlier uploads dropped", reason=str(error))
            return nothing_left_out(spec)
        return rest if rest.heads.all() else nothing_left_out(spec)

    def bytes_of(self, spec: AdapterSpec, rest: Update) -> bytes:
        """What the file is to hold once the upload that leaves this out has its receipt."""
        return self._owner + encode(spec, rest)

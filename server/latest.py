"""The adapter that a round starts from, for everybody who takes part in it."""

import threading

from ravan.spec import AdapterSpec
from ravan.update import Update, decode
from server.blobs import Blobs


class Latest:
    """Adapters by sha256, of which the last one stays in memory: once, however many devices fetch it or began from it.

    May be used from any thread.
    """

    def __init__(self, adapters: Blobs) -> None:
        self._adapters = adapters
        self._lock = threading.Lock()
        self._read: tuple[str, bytes] | None = None
        self._decoded: tuple[str, Update] | None = None

    def data(self, sha256: str) -> bytes:
        """An adapter's bytes."""
        with self._lock:
            if self._read is None or self._read[0] != sha256:
                self._read = sha256, self._adapters.get(sha256)
            return self._read[1]

    def keep(self, sha256: str, data: bytes) -> None:
        """Takes an adapter that was just stored, so that it need not be read."""
        with self._lock:
            self._read = sha256, data

    def update(self, spec: AdapterSpec, sha256: str) -> Update:
        """What the bytes say; not to be changed."""
        data = self.data(sha256)
        with self._lock:
            if self._decoded is None or self._decoded[0] != sha256:
                self._decoded = sha256, decode(spec, data)
            return self._decoded[1]

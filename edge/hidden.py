"""The frozen prefix of a model, computed once for each example and kept on the device's disk.

With adapters in the top layers alone, nothing below them ever changes: what the lower layers make of an example is the
same in every epoch and every round. It is computed for one example at a time and rounded to float16 whether it comes
from the disk or not, so that a run's result does not depend on what is cached.
"""

import hashlib
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray

from ravan.bundle import PREFIX, WEIGHTS, Bundle
from ravan.runtime.examples import Examples
from ravan.runtime.names import HIDDEN, LABELS
from ravan.runtime.session import Batch, Prefix, RuntimeOptions

log = structlog.get_logger()
"""Its file in a home."""
Hidden = NDArray[np.float16]
"""[length, width]"""


class HiddenStates:
    """Hidden states of single examples, from the disk or from prefix.onnx; used by one thread at a time.

    The cache is an SQLite file of at most ``quota`` bytes of values, keyed by the content of graph and example; it
    holds one bundle's, and loses nothing that can't be computed again.
    """

    def __init__(self, bundle: Bundle, options: RuntimeOptions, path: Path, quota: int) -> None:
        files = bundle.manifest.files
        self._graph = f"{files[PREFIX].sha256} {files[WEIGHTS].sha256}"
        self._bundle, self._options, self._quota = bundle, options, quota
        self._prefix: Prefix | None = None
        self._cache = _open_cache(path)
        self._cache.execute("DELETE FROM hidden WHERE graph != ?", (self._graph,))
        (self._used,) = self._cache.execute("SELECT coalesce(sum(length(value)), 0) FROM hidden").fetchone()
        self._cache.commit()
        self.hits = self.misses = 0

    def of(self, example: Batch) -> Hidden:
        """Of a batch of one example, labels left out."""
        key = _key(example)
        found = self._cache.execute("SELECT value, width FROM hidden WHERE key = ?", (key,)).fetchone()
        if found:
            self.hits += 1
            value: bytes = found[0]
            kept: Hidden = np.frombuffer(value, np.float16)
            return kept.reshape(-1, int(found[1]))
        self.misses += 1
        if self._prefix is None:
            self._prefix = Prefix(self._bundle, self._options)
        hidden: Hidden = self._prefix(example)[0].astype(np.float16)
        self._keep(key, hidden)
        return hidden

    def close(self) -> None:
        """Lets another process use the file."""
        self._cache.close()

    def _keep(self, key: bytes, hidden: Hidden) -> None:
        if self._used + hidden.nbytes > self._quota:
            return
        try:
            with self._cache:
                row = key, self._graph, hidden.shape[1], hidden.tobytes()
                self._cache.execute("INSERT OR IGNORE INTO hidden VALUES (?, ?, ?, ?)", row)
        except sqlite3.OperationalError as error:
            log.warning("hidden states not kept", reason=str(error))
            self._quota = 0
        self._used += hidden.nbytes


@dataclass(frozen=True)
class HiddenExamples:
    """Examples whose batches hold hidden states in place of the raw input."""

    raw: Examples
    states: HiddenStates

    @property
    def skipped(self) -> int:
        """As ``Examples.skipped``."""
        return self.raw.skipped

    def __len__(self) -> int:
        return len(self.raw)

    def tokens(self, index: int) -> int:
        """As ``Examples.tokens``."""
        return self.raw.tokens(index)

    def batch(self, indices: Sequence[int]) -> Batch:
        """As ``Examples.batch``, shorter examples followed by zeros, which the attention mask hides."""
        rows = [self.states.of(self.raw.batch([i])) for i in indices]
        hidden = np.zeros((len(rows), max(map(len, rows)), rows[0].shape[1]), np.float32)
        for into, row in zip(hidden, rows, strict=True):
            into[: len(row)] = row
        return {**self.raw.batch(indices), HIDDEN: hidden}


def _key(example: Batch) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(set(example) - {LABELS}):
        value = np.ascontiguousarray(example[name])
        digest.update(f"{name} {value.dtype} {value.shape} ".encode())
        digest.update(value.data)
    return digest.digest()


def _open_cache(path: Path) -> sqlite3.Connection:
    """Opens or makes the file; one that SQLite can't read is begun anew."""
    for _ in range(2):
        connection = sqlite3.connect(path, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = OFF")  # after a power cut the worst is a cache begun anew
            connection.execute(
                "CREATE TABLE IF NOT EXISTS hidden (key BLOB PRIMARY KEY, graph TEXT, width INTEGER, value BLOB)"
            )
        except sqlite3.DatabaseError as error:
            log.warning("cache begun anew", reason=str(error))
            connection.close()
            path.unlink(missing_ok=True)
        else:
            return connection
    raise sqlite3.DatabaseError(f"{path} can't be made")

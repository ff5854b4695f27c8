"""A cap on what a client sends and fetches: a token bucket over all of its transfers together."""

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ravan.errors import SettingsError
from ravan.rpc.transfer import CHUNK

LEAST = 16_000
"""Bytes a second: a server ends uploads that move at half of that, taking them for stuck."""
BURST_SECONDS = 0.5
"""How much of a silent time may be made up for at once."""
SMALLEST_PIECE = 4096  # bytes of a message: below that, frames weigh more than what they carry
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMG]?)(B|bit)/s", re.ASCII)
_UNITS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}


def parse_rate(text: str) -> float:
    """Bytes a second of a text such as "500kB/s" or "4Mbit/s"; 0, for no cap, of an empty one.

    Raises:
        SettingsError: it is no rate, or one at which no upload would come through.
    """
    if not text:
        return 0.0
    found = _RATE.fullmatch(text)
    if not found:
        raise SettingsError(f"--bandwidth {text!r} is no rate: write it as 500kB/s, 2MB/s or 4Mbit/s.")
    rate = float(found[1]) * _UNITS[found[2]] / (8 if found[3] == "bit" else 1)
    if rate < LEAST:
        raise SettingsError(
            f"--bandwidth {text}: the server ends transfers so slow, give at least {LEAST // 1000}kB/s."
        )
    return rate


@dataclass
class Bandwidth:
    """Makes transfers wait for their turn; shared by all threads of a client, whose sum it holds to the rate.

    Attributes:
        rate: bytes a second, 0 for no cap.
        stop: once set, nobody waits any more.
        clock: seconds that only grow.
    """

    rate: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event)
    clock: Callable[[], float] = time.monotonic
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _free_at: float = field(default=float("-inf"), repr=False)

    @property
    def piece(self) -> int:
        """Bytes to send in one message, so that a slow line is never taken for long at a time."""
        return min(CHUNK, max(SMALLEST_PIECE, int(self.rate / 4))) if self.rate else CHUNK

    def take(self, size: int) -> None:
        """Returns when so many bytes may go, or may have come."""
        if not self.rate:
            return
        with self._lock:
            now = self.clock()
            begins = max(self._free_at, now - BURST_SECONDS)
            self._free_at = begins + size / self.rate
            wait = self._free_at - now
        if wait > 0:
            self.stop.wait(wait)

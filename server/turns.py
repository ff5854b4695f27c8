"""One upload of a device's part at a time, each within a bounded time."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from server.errors import TooMany, TooSlow
from server.storage import Storage

LONGEST = 900.0  # seconds of an upload, and of waiting for another one
SHORTEST = 60.0  # seconds that every upload is given
SLOWEST = 8192  # bytes a second beyond that; whoever is slower must go on with another upload
MOST = 100
"""Uploads of a part at a time: one, and those that wait for it."""
STALLED = 3.0
"""Seconds without a byte after which an upload makes way for one that waits: its line is most likely cut."""


class Turn:
    """The time of one upload; it may be hurried while its bytes come in, and runs to its end after that."""

    def __init__(self, limit: asyncio.Timeout, seconds: float, *, hurried: bool) -> None:
        self._limit = limit
        self._ends = _now() + seconds
        self._last = _now()
        self._hurried = hurried
        self.go_on()

    def go_on(self) -> None:
        """Some bytes came."""
        self._last = _now()
        self._limit.reschedule(self._ends if not self._hurried else min(self._ends, self._last + STALLED))

    def hurry(self) -> None:
        """Another upload of the same part waits."""
        self._hurried = True
        if self._limit.when() is not None and not self._limit.expired():
            self._limit.reschedule(min(self._ends, self._last + STALLED))

    def complete(self) -> None:
        """All bytes came: what follows is the server's own time."""
        self._limit.reschedule(None)


class Turns:
    """Who uploads, by what, and how many wait."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._going: dict[str, Turn] = {}
        self._waiting: Counter[str] = Counter()

    @asynccontextmanager
    async def of(self, key: str, size: int) -> AsyncIterator[Turn]:
        """A turn for so many bytes, once the one before is over.

        Raises:
            TooMany: more uploads of the same part wait already than any device makes.
            TooSlow: the bytes did not come in time, or did not come at all while another upload waited.
        """
        if self._waiting[key] >= MOST:
            raise TooMany("Too many uploads of one update wait here already: send it once.")
        seconds = min(SHORTEST + size / SLOWEST, LONGEST)
        try:
            async with self._alone(key), asyncio.timeout(None) as limit:
                self._going[key] = Turn(limit, seconds, hurried=self._waiting[key] > 0)
                try:
                    yield self._going[key]
                finally:
                    del self._going[key]
        except TimeoutError:
            raise TooSlow("The upload stood still or took too long: go on with it on a better line.") from None

    @asynccontextmanager
    async def _alone(self, key: str) -> AsyncIterator[None]:
        if key in self._going:
            self._going[key].hurry()
        lock = self._storage.hold(key)
        self._waiting[key] += 1
        try:
            async with asyncio.timeout(LONGEST):
                await lock.acquire()
        finally:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key]
        try:
            yield
        finally:
            lock.release()


def _now() -> float:
    return asyncio.get_running_loop().time()

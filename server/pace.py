"""Pace steering: the more devices there are, the longer each stays away (Bonawitz et al. 2019, section 2.3)."""

import time
from collections.abc import Callable

from server.storage import Storage

Window = tuple[float, float]
"""Seconds between which a device draws the moment of its return."""

CHECK_INS_PER_SECOND = 100.0
"""That a server steers to, whatever the number of devices."""
POPULATION_SECONDS = 300.0
"""Devices that were here within these are expected back; no window ends later."""
COUNT_SECONDS = 2.0
"""For which a count is good enough."""


class Pace:
    """Return windows by the number of devices, which is counted in the state: servers that share it steer alike."""

    def __init__(self, storage: Storage, clock: Callable[[], float] = time.time) -> None:
        self._storage = storage
        self._clock = clock
        self._counted_at = float("-inf")
        self._population = 0

    async def window(self, wanted: Window) -> Window:
        """The window that a run asks for, or a longer one of the same form."""
        await self.count()
        return self.last(wanted)

    def last(self, wanted: Window) -> Window:
        """The same by the last count."""
        return stretched(wanted, self._population)

    async def count(self) -> None:
        """Counts the devices, unless that was done just now."""
        now = self._clock()
        if abs(now - self._counted_at) >= COUNT_SECONDS:
            self._counted_at = now
            self._population = await self._storage.call(self._storage.state.count_present, now - POPULATION_SECONDS)


def stretched(wanted: Window, population: int) -> Window:
    """A window in which so many devices make at most ``CHECK_INS_PER_SECOND``; few devices are left as they are."""
    shortest, longest = wanted
    if population <= CHECK_INS_PER_SECOND:
        return wanted
    factor = max(1.0, population / CHECK_INS_PER_SECOND / ((shortest + longest) / 2))
    factor = max(1.0, min(factor, POPULATION_SECONDS / longest))
    return factor * shortest, factor * longest

"""How busy a machine is with the work of others: its load without our own share."""

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from edge.machine import load_average, process_seconds, processor_seconds, running_threads

MINUTE = 60.0
SHORTEST = 0.5
"""Seconds over which cores in use are worth a figure."""


@dataclass(frozen=True)
class Busy:
    """What others do: cores in use since the last look, and their part of the last minute's load average."""

    cores: float | None = None
    load: float | None = None

    @property
    def most(self) -> float | None:
        """The larger of both: use tells of a new program at once, the average of one that comes and goes."""
        return max((value for value in (self.cores, self.load) if value is not None), default=None)


@dataclass(frozen=True)
class _Sample:
    at: float
    all: float | None
    own: dict[int, float]


class Others:
    """Looked at now and then; each look tells of the time since the last one.

    Our own share of the load average is formed as the kernel forms the whole: an exponential mean, over a minute, of
    the threads that run or wait to.

    Args:
        root: below which the machine's /proc stands.
        clock: seconds that only grow.
    """

    def __init__(self, root: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._root, self._clock = root, clock
        self._last = self._sample(())
        self._cores: float | None = None
        self._our_load = 0.0

    def look(self, own: Collection[int] = ()) -> Busy:
        """How busy the machine is now with all but our ``own`` processes."""
        sample = self._sample(own)
        seconds = sample.at - self._last.at
        if seconds >= SHORTEST:
            self._cores = _cores(self._last, sample)
            fading = math.exp(-seconds / MINUTE)
            self._our_load = fading * self._our_load + (1 - fading) * sum(map(running_threads, sample.own))
            self._last = sample
        load = load_average(self._root)
        return Busy(self._cores, None if load is None else max(load - self._our_load, 0.0))

    def _sample(self, pids: Collection[int]) -> _Sample:
        own = {pid: seconds for pid in pids if (seconds := process_seconds(pid)) is not None}
        return _Sample(self._clock(), processor_seconds(self._root), own)


def _cores(before: _Sample, after: _Sample) -> float | None:
    """Cores that others kept busy between two samples; None if a process of ours came or went, and took its count."""
    if before.all is None or after.all is None or before.own.keys() != after.own.keys():
        return None
    ours = sum(after.own.values()) - sum(before.own.values())
    return max(after.all - before.all - ours, 0.0) / (after.at - before.at)

"""What is measured of a contender: rounds, memory, bytes."""

import itertools
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ravan.spec import AdapterSpec, LayerSpec

LAYERS, HEADS, WIDTH = 12, 4, 384
RANKS = {"1.2 MB": 79, "4.6 MB": 155}
"""By the size of the adapter's H in float32."""


def spec_of(size: str) -> AdapterSpec:
    """An adapter of this size."""
    return AdapterSpec(tuple(LayerSpec(f"layer-{n}", WIDTH, WIDTH) for n in range(LAYERS)), HEADS, RANKS[size])


@dataclass(frozen=True)
class Work:
    """Rounds to play.

    Attributes:
        clients: processes that add a constant to what they are sent, all in every round.
        rounds: of which the first is not counted: it waits for clients to start.
    """

    clients: int
    rounds: int


@dataclass(frozen=True)
class Turn:
    """One turn of a contender.

    Attributes:
        seconds: of each counted round, from the end of the one before.
        server_bytes: largest sum of the server's processes' memory, shared pages shared out (PSS); 0 if not measured.
        up: bytes from clients to server on the wire, where they were counted, connections and check-ins included.
        down: bytes from server to clients.
    """

    seconds: tuple[float, ...]
    server_bytes: int = 0
    up: int = 0
    down: int = 0

    @property
    def round_seconds(self) -> float:
        """Of the round in the middle."""
        return statistics.median(self.seconds)


class Contender(Protocol):
    """A server with its clients, all in processes of their own."""

    def play(self, work: Work, folder: Path, *, count: bool = False) -> Turn:
        """All rounds; bytes are counted by a proxy, which costs time, if so asked.

        Raises:
            RuntimeProblem: it takes too long; logs are in ``folder``.
        """
        ...


def durations(ends: list[float]) -> tuple[float, ...]:
    """Seconds of every round but the first, from the times at which they ended."""
    return tuple(after - before for before, after in itertools.pairwise(ends))

"""What is measured of a contender: rounds, memory, bytes."""

import itertools
import statistics
from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """Rounds to play.

    Attributes:
        size: "small" or "large", see ``model.RANKS``.
        clients: processes that add a constant to what they are sent, all in every round.
        rounds: of which the first is not counted: it waits for clients to start.
    """

    size: str
    clients: int
    rounds: int


@dataclass(frozen=True)
class Turn:
    """One turn of a contender.

    Attributes:
        seconds: of each counted round, from the end of the one before.
        server_bytes: largest sum of the server's processes' memory, shared pages shared out (PSS).
        up: bytes from clients to server on the wire, where they were counted, connections and check-ins included.
        down: bytes from server to clients.
    """

    seconds: tuple[float, ...]
    server_bytes: int
    up: int = 0
    down: int = 0

    @property
    def round_seconds(self) -> float:
        """Of the round in the middle."""
        return statistics.median(self.seconds)


def durations(ends: list[float]) -> tuple[float, ...]:
    """Seconds of every round but the first, from the times at which they ended."""
    return tuple(after - before for before, after in itertools.pairwise(ends))

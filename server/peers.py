"""The servers that share a state: one of them moves its runs, and each can tell the others that something happened."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ravan.errors import RavanError
from server.state import State


class Deposed(RavanError):
    """Another server moves the runs by now; nothing was written."""

    code = "deposed"


@dataclass(frozen=True)
class Term:
    """The time for which one server moves the runs.

    Attributes:
        state: writes for as long as the term lasts; afterwards it raises ``Deposed``.
        was_vacant: no server was there for a while before, so that devices could not upload.
    """

    state: State
    was_vacant: bool


class Peers(Protocol):
    """Who leads, and a bell that all can ring."""

    @property
    def term(self) -> Term | None:
        """This server's term; None while another server leads."""
        ...

    async def keep(self, heard: Callable[[], None]) -> None:
        """Leads whenever nobody else does and calls ``heard`` when another server rings, until cancelled."""

    async def ring(self) -> None:
        """Tells the others that something happened that may allow a step, or that they may show."""


class Alone:
    """``Peers`` of the one server that uses its state."""

    def __init__(self, state: State) -> None:
        self._term = Term(state, was_vacant=True)

    @property
    def term(self) -> Term:
        """See ``Peers``."""
        return self._term

    async def keep(self, heard: Callable[[], None]) -> None:
        """See ``Peers``."""
        await asyncio.Event().wait()

    async def ring(self) -> None:
        """See ``Peers``."""


def leading(peers: Peers) -> State:
    """The state to write with.

    Raises:
        Deposed: another server leads.
    """
    if peers.term is None:
        raise Deposed("Another server moves the runs.")
    return peers.term.state

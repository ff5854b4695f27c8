"""Check-ins that are held until there is a task, so that a round begins as soon as its devices are chosen."""

import asyncio
import contextlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import structlog

from ravan.errors import RavanError
from server.coordinator import Coordinator
from server.records import AssignmentState, RoundState, RunState
from server.state import State
from server.storage import Storage

log = structlog.get_logger()
MOST_HELD = 5_000
RETRY_SECONDS = 1.0
SHARE = 0.5, 1.0
"""Of the longest time, for which a device is held."""


class Place:
    """One device's, until it is called.

    Attributes:
        held: seconds that it was waited for in vain.
    """

    def __init__(self, share: float) -> None:
        self.held = 0.0
        self._share = share
        self._called = asyncio.Event()

    def call(self) -> None:
        """Lets the device have its answer."""
        self._called.set()

    async def called(self, longest: float) -> bool:
        """Whether the device is called within its share of so many seconds."""
        seconds = self._share * longest
        if not seconds > 0:
            return False
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._called.wait(), seconds)
        self.held = seconds
        return self._called.is_set()


class _Chosen(NamedTuple):
    """Devices, None for all, and the round that chose them."""

    devices: tuple[str, ...] | None = ()
    round: tuple[str, int] | None = None


class Held:
    """Calls devices when a round has chosen them, or when nothing can be chosen any more.

    After every change the state is read once for all, however many devices wait. How long each is held at most is
    drawn, so that devices that came together, as after a restart, do not come back together for ever.
    """

    def __init__(self, storage: Storage, coordinator: Coordinator, generator: random.Random) -> None:
        self._storage = storage
        self._coordinator = coordinator
        self._generator = generator
        self._places: dict[str, Place] = {}
        self._watching: asyncio.Task[None] | None = None
        self._ending = False

    @contextmanager
    def place(self, device_id: str) -> Iterator[Place]:
        """A device's place, to be taken before the state is read; one that checks in again leaves its former place."""
        full = self._ending or len(self._places) >= MOST_HELD
        place = Place(0.0 if full else self._generator.uniform(*SHARE))
        former = self._places.get(device_id)
        if former:
            former.call()
        self._places[device_id] = place
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch(self._coordinator.steps))
        try:
            yield place
        finally:
            if self._places.get(device_id) is place:
                del self._places[device_id]

    def let_go(self) -> None:
        """Calls everybody, and holds nobody from now on: the server ends."""
        self._ending = True
        if self._watching:
            self._watching.cancel()
        for place in self._places.values():
            place.call()

    async def _watch(self, seen: int) -> None:
        told: tuple[str, int] | None = None
        while self._places:
            await self._coordinator.stepped(seen)
            now = self._coordinator.steps
            try:
                told = await self._tell(told)
                seen = now
            except RavanError as error:  # the step that they were to hear of is still to be told
                log.warning("held devices were not told", reason=str(error))
                await asyncio.sleep(RETRY_SECONDS)

    async def _tell(self, told: tuple[str, int] | None) -> tuple[str, int] | None:
        """Calls who is chosen, once for each round; returns the round that was told last."""
        chosen = await self._storage.call(_chosen, self._storage.state, told)
        for device_id in [*self._places] if chosen.devices is None else chosen.devices:
            if device_id in self._places:
                self._places[device_id].call()
        return chosen.round or told


def _chosen(state: State, told: tuple[str, int] | None) -> _Chosen:
    """Whom a round waits for that was not told yet; everybody if nothing goes on, or whoever comes may join."""
    run = state.active_run()
    if run is None or run.state is not RunState.ACTIVE:
        return _Chosen(None)
    current = state.current_round(run.run_id)
    if current is None or current.state is not RoundState.COLLECTING or told == (run.run_id, current.number):
        return _Chosen()
    if run.options.is_async:
        return _Chosen(None, (run.run_id, current.number))
    parts = state.assignments(run.run_id, current.number)
    devices = tuple(part.device_id for part in parts if part.state is AssignmentState.ASSIGNED)
    return _Chosen(devices, (run.run_id, current.number))

"""From the bytes of an update to its receipt: kept as they come, checked, made durable, counted."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import structlog

from ravan.errors import UpdateError
from ravan.faults import reached
from ravan.norms import Norms
from server.errors import BadRequest, Incomplete, Refusal, TooLarge, WrongHash, WrongOffset
from server.looks import counts
from server.partials import Partial
from server.records import Assignment
from server.state import State
from server.storage import Storage
from server.turns import Turn, Turns

log = structlog.get_logger()
T = TypeVar("T")
AT_ONCE = 4
"""Updates that are checked and stored at a time, so that memory does not grow with the number of devices."""


class Uploads:
    """Takes updates, one of a part at a time."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._turns = Turns(storage)
        self._settling = asyncio.Semaphore(AT_ONCE)

    async def held(self, part: Assignment, sha256: str) -> int:
        """Bytes of an update that are on disk."""
        return await asyncio.to_thread(self._storage.partials.held, part.receipt, sha256)

    async def take(
        self, received: Assignment, check: Callable[[bytes], Norms], offset: int, pieces: AsyncIterator[bytes]
    ) -> None:
        """Counts an update whose bytes from the offset on come in pieces; does nothing if it is counted already.

        ``check`` refuses bytes that must not be stored. What came before the line broke is kept. Once all bytes are
        here, it is counted even if the line breaks.

        Raises:
            Conflict, RoundClosed, TooStale: it can't be counted any more.
            WrongOffset: the bytes before the offset are not here.
            TooLarge, TooSlow, Incomplete, WrongHash, UpdateError: the bytes are not as they must be.
        """
        async with self._turns.of(received.receipt, received.bytes_up - offset) as turn:
            if await self._may_count(received):
                try:
                    await self._receive(received, check, offset, pieces, turn)
                except (Refusal, UpdateError) as error:
                    if not isinstance(error, (WrongOffset, Incomplete)):
                        self._storage.partials.drop(received.receipt)
                    raise

    async def _may_count(self, received: Assignment) -> bool:
        """Whether the update is to be counted; False if it is already.

        Raises:
            Conflict, RoundClosed, TooStale: it can't be.
        """
        return await self._storage.call(_may_count, self._storage.state, received)

    async def _receive(
        self,
        received: Assignment,
        check: Callable[[bytes], Norms],
        offset: int,
        pieces: AsyncIterator[bytes],
        turn: Turn,
    ) -> None:
        partials, sha256 = self._storage.partials, received.sha256
        assert sha256 is not None
        partial = await asyncio.to_thread(partials.open, received.receipt, sha256, offset)
        if partial is None:
            raise WrongOffset(f"Less than {offset} bytes of this update are here: ask how many, and go on there.")
        try:
            await _collect(partial, received.bytes_up, pieces, turn)
            turn.complete()
            reached("body-complete")
            await _to_its_end(self._settle(received, check, partial))
        finally:
            partial.close()

    async def _settle(self, received: Assignment, check: Callable[[bytes], Norms], partial: Partial) -> None:
        """Checks, stores and counts an update whose bytes are complete."""
        async with self._settling:
            data, norms = await asyncio.to_thread(_checked, partial, received, check)
            reached("update-admitted")
            await self._storage.keep_update(received.measured(norms), data, partial.path)
        reached("update-counted")
        self._storage.partials.drop(received.receipt)
        log.info("update received", run=received.run_id, round=received.round, device=received.device_id[:8])


def _may_count(state: State, received: Assignment) -> bool:
    assert received.sha256 is not None
    if counts(state.assignment(*received.key), received.sha256):
        return False
    state.expect(received)
    return True


def _checked(partial: Partial, received: Assignment, check: Callable[[bytes], Norms]) -> tuple[bytes, Norms]:
    """The bytes of a whole update and how far it moved.

    Raises:
        WrongHash, UpdateError: it must not be stored.
    """
    data = partial.read()
    if hashlib.sha256(data).hexdigest() != received.sha256:
        raise WrongHash("The bytes received do not match the header: send the update again.")
    return data, check(data)


async def _collect(partial: Partial, size: int, pieces: AsyncIterator[bytes], turn: Turn) -> None:
    """Writes an upload's bytes as they come, never more than its size.

    Raises:
        TooLarge: the stream goes on beyond it.
        BadRequest: it goes on with nothing.
        Incomplete: it ends before, as it also does here when the line breaks.
    """
    empty = 0
    async for piece in pieces:
        empty += not piece
        if empty > 1:
            raise BadRequest("The upload holds empty pieces: send what the edge client sends.")
        if partial.size + len(piece) > size:
            raise TooLarge(f"The upload exceeds the {size} bytes its header announces: send it again.")
        await _to_its_end(asyncio.to_thread(partial.add, piece))
        reached("piece-kept")
        turn.go_on()
    if partial.size < size:
        raise Incomplete(f"The upload ended after {partial.size} of {size} bytes: go on there.")


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Work that is done whole even if the call is cancelled meanwhile, so that nobody else begins in the middle."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled() and task.exception() is not None:
            log.info("an upload that broke off failed too", reason=str(task.exception()))
        raise

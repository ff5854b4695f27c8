"""Refusing a call that was made before: nonces, remembered in the state for as long as a signature is valid."""

import asyncio
import time
from collections.abc import Callable

from ravan.faults import reached
from ravan.rpc.signing import Statement
from server.errors import ReplayedCall
from server.records import Nonce
from server.storage import Storage

Waiting = tuple[Nonce, asyncio.Future[bool]]


class Replays:
    """Keeps nonces of many calls in one transaction: while one is synced to disk, the next gathers.

    Args:
        storage: where they are kept, so that a restarted server knows them.
        skew: seconds that a caller's clock may be off.
        clock: Unix time.
    """

    def __init__(self, storage: Storage, skew: float, clock: Callable[[], float] = time.time) -> None:
        self._storage = storage
        self._skew = skew
        self._clock = clock
        self._waiting: list[Waiting] = []
        self._keeping: asyncio.Task[None] | None = None

    async def remember(self, statement: Statement) -> None:
        """Keeps a call's nonce, durably.

        Raises:
            ReplayedCall: it was kept before.
        """
        fresh = asyncio.get_running_loop().create_future()
        self._waiting.append((self._nonce(statement), fresh))
        if self._keeping is None:
            self._keeping = asyncio.create_task(self._keep())
        if not await fresh:
            raise _replayed()

    async def look(self, statement: Statement) -> None:
        """Keeps nothing.

        Raises:
            ReplayedCall: the call's nonce was kept.
        """
        if await self._storage.call(self._storage.state.remembers, self._nonce(statement)):
            raise _replayed()

    async def _keep(self) -> None:
        while self._waiting:
            gathered, self._waiting = self._waiting, []
            try:
                fresh = await self._storage.call(
                    self._storage.state.remember, [nonce for nonce, _ in gathered], self._clock()
                )
            except BaseException as error:
                for _, waiting in gathered:
                    if not waiting.done():
                        waiting.set_exception(error)
                continue
            reached("nonces-kept")
            for (_, waiting), is_new in zip(gathered, fresh, strict=True):
                if not waiting.done():  # the call may have been cancelled meanwhile
                    waiting.set_result(is_new)
        self._keeping = None

    def _nonce(self, statement: Statement) -> Nonce:
        return Nonce(statement.key, statement.nonce, statement.seconds + self._skew)


def _replayed() -> ReplayedCall:
    return ReplayedCall("This very call was made before: sign every call anew.")

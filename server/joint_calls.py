"""Calls of the state that wait for the disk together: one commit for all, and no answer before it."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple, TypeVar

import structlog

from ravan.errors import EnvironmentProblem, RavanError
from server.sql_database import SqlDatabase

log = structlog.get_logger()
MOST = 64  # calls of one commit
T = TypeVar("T")


class _Outcome(NamedTuple):
    """What a call gave or raised."""

    value: Any = None
    error: BaseException | None = None


class _Call(NamedTuple):
    """A function, who waits for it, and on which loop."""

    function: Callable[[], Any]
    waiting: "asyncio.Future[Any]"
    loop: asyncio.AbstractEventLoop


class JointCalls:
    """Runs calls on an executor's one thread; while some are committed, the next ones gather.

    Nobody has an answer before the commit is on the disk. A transaction that is refused is taken back, and the others
    of its commit do not see it. If the commit fails, or a call in any other way, nothing of it remains, and all calls
    are made again, each with commits of its own; whatever else they do must bear being done twice.
    """

    def __init__(self, database: SqlDatabase, executor: Executor) -> None:
        self._database = database
        self._executor = executor
        self._lock = threading.Lock()
        self._gathered: list[_Call] = []
        self._running = False

    async def make(self, function: Callable[[], T]) -> T:
        """What a call gives, once what it changed is durable."""
        loop = asyncio.get_running_loop()
        call = _Call(function, loop.create_future(), loop)
        with self._lock:
            if not self._running:
                self._executor.submit(self._run)
                self._running = True
            self._gathered.append(call)
        result: T = await call.waiting
        return result

    def _run(self) -> None:
        while True:
            with self._lock:
                taken, self._gathered = self._gathered[:MOST], self._gathered[MOST:]
                self._running = bool(taken)
            if not taken:
                return
            calls = [call for call in taken if not call.waiting.cancelled()]
            _tell(calls, self._outcomes(calls))

    def _outcomes(self, calls: Sequence[_Call]) -> list[_Outcome]:
        try:
            with self._database.joined():
                return [_outcome(call, RavanError, but=EnvironmentProblem) for call in calls]
        except BaseException as error:  # what it was comes out again below
            log.info("calls are made one by one", reason=str(error))
        return [_outcome(call, BaseException) for call in calls]


def _outcome(call: _Call, taken: type[BaseException], but: type[BaseException] | None = None) -> _Outcome:
    """What a call gives, or an error of the kind that is taken for its answer."""
    try:
        return _Outcome(call.function())
    except taken as error:
        if but is not None and isinstance(error, but):
            raise
        return _Outcome(error=error)


def _tell(calls: Sequence[_Call], outcomes: Sequence[_Outcome]) -> None:
    """Lets everybody know, each loop once."""
    for loop in {call.loop for call in calls}:
        mine = [(call, outcome) for call, outcome in zip(calls, outcomes, strict=True) if call.loop is loop]
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(_settle, mine)


def _settle(told: Sequence[tuple[_Call, _Outcome]]) -> None:
    for call, outcome in told:
        if call.waiting.done():  # it was cancelled
            continue
        if outcome.error is None:
            call.waiting.set_result(outcome.value)
        else:
            call.waiting.set_exception(outcome.error)

"""Everything the server keeps, behind one interface: in one folder, or in a database that several servers share."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar
from weakref import WeakValueDictionary

from ravan.files import lock_folder
from server.blobs import Blobs
from server.partials import Partials
from server.peers import Peers
from server.records import Assignment, AssignmentState, RoundState, Run
from server.shelf import Shelf
from server.state import State

P = ParamSpec("P")
T = TypeVar("T")


class Storage(ABC):
    """State, blobs, bundles, and who else uses them.

    Attributes:
        state: runs, rounds, devices, parts, keys.
        updates: received updates, dropped some rounds later.
        adapters: every round's adapter.
        optimizer: what the active run's server optimizer remembers after the last round.
        archives: of the client's releases.
        shelf: bundles and held-out examples.
        peers: the servers that share all this.
        partials: uploads whose line broke, of this server alone.
    """

    state: State
    updates: Blobs
    adapters: Blobs
    optimizer: Blobs
    archives: Blobs
    shelf: Shelf
    peers: Peers
    partials: Partials

    def __init__(self, threads: int) -> None:
        self._database = ThreadPoolExecutor(threads, "database")
        self._held: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @contextmanager
    def _opening(self, folder: Path) -> Iterator[ExitStack]:
        """Holds the folder; what the block adds is released by ``close``, or at once if the block fails."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with ExitStack() as opened:
            opened.callback(lock_folder(folder, "server").close)
            yield opened
            self._opened = opened.pop_all()

    @abstractmethod
    async def keep_update(self, received: Assignment, data: bytes, file: Path) -> None:
        """Makes an update's bytes durable, then counts it; if it is refused, bytes that nothing names go again.

        ``file``, of the partials, holds the same bytes; the storage may take it for its own.

        Raises:
            Refusal: see ``State.receive``.
        """

    @abstractmethod
    async def forget_update(self, sha256: str, run_id: str, after: int) -> None:
        """Drops an update's bytes unless a part names them, but for those of one run's rounds up to ``after``."""

    @abstractmethod
    def adapter_path(self, run_id: str, *, best: bool) -> Path | None:
        """Where a run's best or last adapter is published as a file; None where it is made when asked for."""

    @abstractmethod
    async def refusals(self, counted: Mapping[str, int]) -> Mapping[str, int]:
        """Refused calls by code, of all servers that share the state, of which this one has counted these."""

    def drop_partials(self) -> None:
        """Removes what came of uploads that can't be counted any more."""
        run = self.state.active_run()
        self.partials.keep(part.receipt for part in (_open_parts(self.state, run) if run else ()))

    def hold(self, key: str) -> asyncio.Lock:
        """The lock of this process for one upload or blob: who stores or drops it does so alone."""
        return self._held.setdefault(key, asyncio.Lock())

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a method of the state on a thread for it, so that a commit never holds up other calls."""
        return await asyncio.get_running_loop().run_in_executor(self._database, partial(function, *args, **kwargs))

    def close(self) -> None:
        """Finishes what was begun and releases everything."""
        self._database.shutdown()
        self._opened.close()


def _open_parts(state: State, run: Run) -> list[Assignment]:
    """Parts whose update may still come."""
    current = state.current_round(run.run_id)
    if current is None:
        return []
    if run.options.is_async:
        oldest = current.number - run.options.max_staleness
        parts = [part for part in state.assignments(run.run_id) if part.round >= oldest]
    else:
        collecting = current.state is RoundState.COLLECTING
        parts = state.assignments(run.run_id, current.number) if collecting else []
    return [part for part in parts if part.state is not AssignmentState.RECEIVED]

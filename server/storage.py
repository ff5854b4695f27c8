"""Everything the server keeps, in one folder that one server uses at a time."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar
from weakref import WeakValueDictionary

from ravan.files import lock_folder
from server.blobs import Blobs
from server.sql_state import open_sqlite
from server.state import State

P = ParamSpec("P")
T = TypeVar("T")


class Storage:
    """State, blobs and published adapters below one folder.

        state.sqlite   runs, rounds, devices, parts, keys
        updates/       received updates by sha256, dropped some rounds later
        adapters/      every round's adapter by sha256
        optimizer/     what the active run's server optimizer remembers after the last round
        published/     <run>/best.safetensors and last.safetensors
        tls/           certificates and keys, see server/tls.py
        lock           held by the one server that uses the folder

    Raises:
        EnvironmentProblem: the folder can't be written, or another server uses it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self._lock = lock_folder(folder, "server")
        self.updates, self.adapters = Blobs(folder / "updates"), Blobs(folder / "adapters")
        self.optimizer = Blobs(folder / "optimizer")
        self.state: State = open_sqlite(folder)
        self._database = ThreadPoolExecutor(1, "database")
        self._held: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        for sha256 in self.updates.names():  # of uploads that a crash cut off before their receipt
            if not self.state.names_update(sha256):
                self.updates.drop(sha256)
        for sha256 in set(self.optimizer.names()) - {self._remembered()}:  # of rounds that a crash cut off
            self.optimizer.drop(sha256)

    def _remembered(self) -> str | None:
        """What the server optimizer of the one run that goes on remembers."""
        run = self.state.active_run()
        published = [r for r in self.state.rounds(run.run_id) if r.adapter] if run else []
        return published[-1].optimizer_memory if published else None

    def adapter_path(self, run_id: str, *, best: bool) -> Path:
        """Where a run's best or last adapter is published."""
        return self.folder / "published" / run_id / ("best.safetensors" if best else "last.safetensors")

    def hold(self, key: str) -> asyncio.Lock:
        """The lock for one upload or blob: who stores or drops it does so alone."""
        return self._held.setdefault(key, asyncio.Lock())

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a method of the state on its own thread, so that a commit never holds up other calls."""
        return await asyncio.get_running_loop().run_in_executor(self._database, partial(function, *args, **kwargs))

    def close(self) -> None:
        """Finishes what was begun and releases the folder."""
        self._database.shutdown()
        self.state.close()
        self._lock.close()

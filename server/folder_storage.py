"""The embedded storage: one folder, which one server uses at a time."""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from ravan.faults import reached
from server.blobs import FileBlobs
from server.errors import Refusal
from server.joint_calls import JointCalls
from server.partials import Partials
from server.peers import Alone
from server.records import Assignment
from server.shelf import OwnShelf
from server.sql_state import open_sqlite
from server.storage import P, Storage, T


class FolderStorage(Storage):
    """State, blobs and published adapters below one folder.

        state.sqlite   runs, rounds, devices, parts, keys
        updates/       received updates by sha256, dropped some rounds later
        partials/      uploads whose line broke, one of a part at most, dropped with their round
        adapters/      every round's adapter by sha256
        optimizer/     what the active run's server optimizer remembers after the last round
        archives/      of the client's releases by sha256, dropped when they are offered no more
        published/     <run>/best.safetensors and last.safetensors
        tls/           certificates and keys, see server/tls.py
        lock           held by the one server that uses the folder

    Raises:
        EnvironmentProblem: the folder can't be written, or another server uses it.
    """

    updates: FileBlobs
    adapters: FileBlobs
    optimizer: FileBlobs
    archives: FileBlobs

    def __init__(self, folder: Path) -> None:
        super().__init__(threads=1)
        self._folder = folder
        with self._opening(folder) as opened:
            self.updates, self.adapters = FileBlobs(folder / "updates"), FileBlobs(folder / "adapters")
            self.optimizer, self.archives = FileBlobs(folder / "optimizer"), FileBlobs(folder / "archives")
            self.partials = Partials(folder / "partials")
            self.state = open_sqlite(folder)
            opened.callback(self.state.close)
            self._together = JointCalls(self.state, self._database)
            self.shelf, self.peers = OwnShelf(), Alone(self.state)
            for sha256 in self.updates.names():  # of uploads that a crash cut off before their receipt
                if not self.state.names_update(sha256):
                    self.updates.drop(sha256)
            for sha256 in set(self.optimizer.names()) - {self._remembered()}:  # of rounds that a crash cut off
                self.optimizer.drop(sha256)
            for sha256 in set(self.archives.names()) - {release.archive.sha256 for release in self.state.releases()}:
                self.archives.drop(sha256)
            self.drop_partials()

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """See ``Storage``; calls that wait for the disk together are committed together."""
        return await self._together.make(partial(function, *args, **kwargs))

    async def keep_update(self, received: Assignment, data: bytes, file: Path) -> None:
        """See ``Storage``."""
        sha256 = received.sha256
        assert sha256 is not None
        async with self.hold(sha256):
            try:
                await asyncio.to_thread(self.updates.adopt, file, sha256)
            except FileNotFoundError:  # its round was closed meanwhile, which says so below
                await asyncio.to_thread(self.updates.put, data)
            reached("update-stored")
            try:
                await self.call(self.state.receive, received)
            except Refusal:
                if not await self.call(self.state.names_update, sha256):
                    self.updates.drop(sha256)
                raise

    async def forget_update(self, sha256: str, run_id: str, after: int) -> None:
        """See ``Storage``."""
        async with self.hold(sha256):
            if not await self.call(self.state.names_update, sha256, run_id, after):
                self.updates.drop(sha256)

    def adapter_path(self, run_id: str, *, best: bool) -> Path:
        """See ``Storage``."""
        return self._folder / "published" / run_id / ("best.safetensors" if best else "last.safetensors")

    async def refusals(self, counted: Mapping[str, int]) -> Mapping[str, int]:
        """See ``Storage``."""
        return counted

    def _remembered(self) -> str | None:
        """What the server optimizer of the one run that goes on remembers."""
        run = self.state.active_run()
        published = [r for r in self.state.rounds(run.run_id) if r.adapter] if run else []
        return published[-1].optimizer_memory if published else None

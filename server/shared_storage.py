"""The storage of several servers: state, blobs and bundles in one PostgreSQL database."""

import asyncio
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from sqlalchemy import BigInteger, Column, Connection, Engine, String, Table, select
from sqlalchemy.dialects import postgresql

from ravan.errors import EnvironmentProblem
from ravan.faults import reached
from server.partials import Partials
from server.postgres import open_engine
from server.records import Assignment
from server.shelf import SharedShelf
from server.sql_blobs import SqlBlobs, shared
from server.sql_database import SqlDatabase
from server.sql_peers import SqlPeers
from server.sql_state import SqlState
from server.sql_tables import create_tables
from server.storage import Storage

CALLS = 4
"""Threads for the state: as many commits wait for the disk together."""

refusals = Table(
    "refusals",
    shared,
    Column("code", String(64), primary_key=True),
    Column("count", BigInteger, nullable=False),
)


class SharedStorage(Storage):
    """Everything in the database but what belongs to this server alone, which is in a folder of its own.

        partials/             uploads whose line broke here
        bundles/, examples/   the database's, laid out for this server; may be removed while it is not running
        tls/                  certificates and keys, see server/tls.py
        lock                  held by the one server that uses the folder

    Raises:
        EnvironmentProblem: the database or the folder can't be used.
    """

    state: SqlState
    updates: SqlBlobs
    peers: SqlPeers

    def __init__(self, url: str, folder: Path, lease: float) -> None:
        super().__init__(threads=CALLS)
        with self._opening(folder) as opened:
            engine = open_engine(url, lease)
            opened.callback(engine.dispose)
            self.state = SqlState(engine)
            create_tables(engine, shared)
            self.updates, self.adapters = SqlBlobs(engine, "updates"), SqlBlobs(engine, "adapters")
            self.optimizer, self.archives = SqlBlobs(engine, "optimizer"), SqlBlobs(engine, "archives")
            self.shelf = SharedShelf(SqlBlobs(engine, "files"), folder)
            self.peers = SqlPeers(engine, url, lease)
            self._refused, self.partials = _Refusals(engine), Partials(folder / "partials")
            self.drop_partials()

    async def keep_update(self, received: Assignment, data: bytes, file: Path) -> None:
        """See ``Storage``."""

        def keep() -> None:
            with self.state.transaction() as db:
                self.updates.put_in(db, data)
                reached("update-stored")
                self.state.receive_in(db, received)

        await self.call(keep)

    async def forget_update(self, sha256: str, run_id: str, after: int) -> None:
        """See ``Storage``."""

        def forget() -> None:
            with self.state.transaction() as db:
                self.updates.lock_in(db, sha256)
                if not self.state.names_update_in(db, sha256, run_id, after):
                    self.updates.drop_in(db, sha256)

        await self.call(forget)

    def adapter_path(self, run_id: str, *, best: bool) -> None:
        """See ``Storage``."""

    async def refusals(self, counted: Mapping[str, int]) -> Mapping[str, int]:
        """See ``Storage``."""
        return await asyncio.to_thread(self._refused.add, counted)

    def close(self) -> None:
        """See ``Storage``."""
        with suppress(EnvironmentProblem):  # the lease ends by itself
            self.peers.resign()
        super().close()


class _Refusals(SqlDatabase):
    """How often which calls were refused, by all servers."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._added: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, counted: Mapping[str, int]) -> dict[str, int]:
        """Adds what this server counted since it was last asked; returns the sums."""
        with self._lock, self.transaction() as db:
            fresh = Counter(counted) - self._added
            for code, count in sorted(fresh.items()):
                self._add(db, code, count)
            sums = {code: int(count) for code, count in db.execute(select(refusals.c.code, refusals.c.count))}
        self._added += fresh
        return sums

    def _add(self, db: Connection, code: str, count: int) -> None:
        new = postgresql.insert(refusals).values(code=code, count=count)
        total = refusals.c.count + new.excluded.count
        db.execute(new.on_conflict_do_update(index_elements=[refusals.c.code], set_={"count": total}))

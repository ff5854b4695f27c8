"""Which of several servers moves the runs: a lease in the database they share, with a term that fences off old leaders.

A leader renews its lease; one that was killed or paused loses it, and another server begins the next term. Everything
a leader writes is one transaction that begins by holding the row of its own term: once another term has begun, an old
leader's transactions fail, whenever it wakes up. Times are the database's, so that the servers' clocks don't matter.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import psycopg
import structlog
from sqlalchemy import Column, Connection, Engine, Float, Integer, String, Table, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from ravan.errors import EnvironmentProblem
from server.peers import Deposed, Term
from server.sql_blobs import shared
from server.sql_database import SqlDatabase, first_line
from server.sql_state import SqlState

log = structlog.get_logger()
CHANNEL = "ravan"
RETRY_SECONDS = 1.0

leases = Table(
    "leases",
    shared,
    Column("one", Integer, primary_key=True, autoincrement=False),
    Column("term", Integer, nullable=False),
    Column("holder", String(32), nullable=False),
    Column("expires_at", Float, nullable=False),
)
_NOW = func.extract("epoch", func.clock_timestamp())


class Lease(SqlDatabase):
    """The one row that says who leads, for how long, in which term."""

    def take(self, holder: str, seconds: float) -> tuple[int, bool] | None:
        """Begins a term if nobody leads; returns it, and whether nobody led for over a lease; None if somebody does."""
        with self.transaction() as db:
            row = db.execute(select(leases, _NOW.label("now")).with_for_update()).first()
            if row is None:
                return self._first_term(db, holder, seconds)
            if row.expires_at > row.now:
                return None
            db.execute(update(leases).values(term=row.term + 1, holder=holder, expires_at=_NOW + seconds))
            return row.term + 1, row.expires_at + seconds < row.now

    def _first_term(self, db: Connection, holder: str, seconds: float) -> tuple[int, bool] | None:
        try:
            with db.begin_nested():
                db.execute(insert(leases).values(one=1, term=1, holder=holder, expires_at=_NOW + seconds))
        except IntegrityError:  # another server was first
            return None
        return 1, True

    def renew(self, term: int, seconds: float) -> bool:
        """Lengthens a term; whether it still lasts."""
        with self.transaction() as db:
            mine = update(leases).where(leases.c.term == term)
            return bool(db.execute(mine.values(expires_at=_NOW + seconds)).rowcount)

    def release(self, term: int) -> None:
        """Ends a term, so that another server need not wait."""
        with self.transaction() as db:
            db.execute(update(leases).where(leases.c.term == term).values(expires_at=_NOW))


class FencedState(SqlState):
    """The state as a leader writes it: every transaction is part of its term, or fails."""

    def __init__(self, engine: Engine, term: int) -> None:
        SqlDatabase.__init__(self, engine)
        self._term = term

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction within the term.

        Raises:
            Deposed: another term has begun.
        """
        with super().transaction() as db:
            mine = select(leases.c.term).where(leases.c.term == self._term)
            if db.execute(mine.with_for_update(read=True)).first() is None:
                raise Deposed(f"Another server moves the runs since term {self._term} has ended.")
            yield db


class SqlPeers:
    """``Peers`` through the database: a lease, and LISTEN and NOTIFY as the bell.

    Args:
        engine: of the database.
        url: of the same, for a connection that listens.
        seconds: for which a server that stopped renewing still leads.
    """

    def __init__(self, engine: Engine, url: str, seconds: float) -> None:
        self._engine = engine
        self._url = url
        self._seconds = seconds
        self._lease = Lease(engine)
        self._name = secrets.token_hex(16)
        self._number: int | None = None
        self._term: Term | None = None

    @property
    def term(self) -> Term | None:
        """See ``Peers``."""
        return self._term

    async def keep(self, heard: Callable[[], None]) -> None:
        """See ``Peers``."""
        listening = asyncio.create_task(self._listen(heard))
        try:
            while True:
                had = self._term
                await self.campaign()
                if self._term is not had:
                    heard()
                await asyncio.sleep(self._seconds / 3)
        finally:
            listening.cancel()

    async def campaign(self) -> None:
        """Renews this server's term, or begins one if nobody leads."""
        try:
            if self._number is None or not await asyncio.to_thread(self._lease.renew, self._number, self._seconds):
                await self._begin()
        except EnvironmentProblem as error:  # the term may last or not; if not, its state says so
            log.warning("database away", reason=str(error))

    async def _begin(self) -> None:
        if self._number is not None:
            log.warning("deposed: another server moves the runs", term=self._number)
            self._number = self._term = None
        taken = await asyncio.to_thread(self._lease.take, self._name, self._seconds)
        if taken:
            self._number, was_vacant = taken
            self._term = Term(FencedState(self._engine, self._number), was_vacant)
            log.info("leading", term=self._number)

    async def ring(self) -> None:
        """See ``Peers``."""
        await asyncio.to_thread(self._ring)

    def _ring(self) -> None:
        with self._lease.transaction() as db:
            db.execute(text("SELECT pg_notify(:channel, :name)"), {"channel": CHANNEL, "name": self._name})

    async def _listen(self, heard: Callable[[], None]) -> None:
        while True:
            try:
                async with self._ears() as connection:
                    async for rung in connection.notifies():
                        if rung.payload != self._name:
                            heard()
            except psycopg.Error as error:
                log.warning("database away", reason=first_line(error))
            await asyncio.sleep(RETRY_SECONDS)

    @asynccontextmanager
    async def _ears(self) -> AsyncIterator[psycopg.AsyncConnection]:
        connection = await psycopg.AsyncConnection.connect(self._url, autocommit=True)
        try:
            await connection.execute(f"LISTEN {CHANNEL}")
            yield connection
        finally:
            await connection.close()

    def resign(self) -> None:
        """Lets another server lead at once."""
        if self._number is not None:
            self._lease.release(self._number)

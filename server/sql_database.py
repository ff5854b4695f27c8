"""Transactions on a SQL database, through SQLAlchemy Core; where SQLite and PostgreSQL differ."""

import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, Select, Table, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnection

from ravan.errors import EnvironmentProblem
from ravan.faults import reached

WRITES = "ravan_writes"
"""Option of connections whose transaction is to have the lock of all writers from its beginning, where there is one."""


class SqlDatabase:
    """What the parts of the SQL state have in common.

    Transactions must be right under READ COMMITTED, PostgreSQL's default: whoever checks rows before a change locks
    them first. SQLite ignores such locks, and has one for the whole database that the first write takes.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._joint = threading.local()

    def close(self) -> None:
        """Releases the connections."""
        self._engine.dispose()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction, within one that ``joined`` began if there is any.

        A database that is away, full, locked or broken is explained.
        """
        joint: Connection | None = getattr(self._joint, "db", None)
        with self._explained():
            if joint is None:
                with self._begun(writes=True) as db:
                    yield db
            else:
                with joint.begin_nested():
                    yield joint

    @contextmanager
    def joined(self) -> Iterator[None]:
        """One commit for all transactions of this thread in the block; one that fails leaves the others as they are.

        A database that another program has locked is not waited for here if the block has read before it writes.
        """
        with self._explained(), self._begun(writes=False) as db:
            self._joint.db = db
            try:
                yield
            finally:
                self._joint.db = None

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """A transaction that changes nothing: within another one there is nothing to take back."""
        joint: Connection | None = getattr(self._joint, "db", None)
        with self._explained():
            if joint is None:
                with self._begun(writes=False) as db:
                    yield db
            else:
                yield joint

    @contextmanager
    def _begun(self, *, writes: bool) -> Iterator[Connection]:
        with self._engine.connect() as db, db.execution_options(**{WRITES: writes}).begin():
            yield db
            reached("before-commit")
        reached("committed")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OperationalError, InternalError, NoConnection) as error:
            reason = first_line(getattr(error, "orig", error))
            raise EnvironmentProblem(
                f"The database refuses ({reason}): start it, free space or end what locks it."
            ) from error

    def all(self, query: Select[Any], **asked: object) -> list[dict[str, Any]]:
        """Every row of a query; ``asked`` are the values of its parameters."""
        with self._reading() as db:
            return [dict(row) for row in db.execute(query, asked).mappings()]

    def first(self, query: Select[Any], **asked: object) -> dict[str, Any] | None:
        """The first row of a query, which should find few; ``asked`` are the values of its parameters."""
        with self._reading() as db:
            row = db.execute(query, asked).mappings().first()
            return None if row is None else dict(row)

    def insert_into(self, table: Table) -> Any:
        """An INSERT that knows ON CONFLICT, which both databases have in the same words."""
        return (postgresql.insert if self._engine.dialect.name == "postgresql" else sqlite.insert)(table)

    def alone(self, db: Connection, what: str) -> None:
        """Lets one transaction at a time do something; the others wait here."""
        if self._engine.dialect.name == "postgresql":
            db.execute(select(func.pg_advisory_xact_lock(zlib.crc32(f"ravan {what}".encode()))))


def first_line(error: object) -> str:
    """What a database says, without the explanations that follow."""
    return str(error).strip().partition("\n")[0]

"""Transactions on a SQL database, through SQLAlchemy Core."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, Select
from sqlalchemy.exc import OperationalError

from ravan.errors import EnvironmentProblem


class SqlDatabase:
    """What the parts of the SQL state have in common."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def close(self) -> None:
        """Releases the connections."""
        self._engine.dispose()

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """One transaction; a database that is full, locked or broken is explained."""
        try:
            with self._engine.begin() as db:
                yield db
        except OperationalError as error:
            raise EnvironmentProblem(
                f"The database refuses ({error.orig}): free space or end what locks it."
            ) from error

    def _all(self, query: Select[Any]) -> list[dict[str, Any]]:
        with self._transaction() as db:
            return [dict(row) for row in db.execute(query).mappings()]

    def _first(self, query: Select[Any]) -> dict[str, Any] | None:
        with self._transaction() as db:
            row = db.execute(query.limit(1)).mappings().first()
            return None if row is None else dict(row)

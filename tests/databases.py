"""A real PostgreSQL for tests: one server a session, its database emptied for every test."""

from collections.abc import Iterator

import psycopg
import pytest

from benchmarks.reliability.database import running_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL."""
    with running_postgres() as url:
        yield url


@pytest.fixture
def database(postgres: str) -> str:
    """The URL of an empty database."""
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute("SET client_min_messages = warning")
        db.execute("DROP SCHEMA public CASCADE")
        db.execute("CREATE SCHEMA public")
    return postgres

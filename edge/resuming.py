"""Files that are downloaded on where they stopped, and known to be right at the end."""

import os
from collections.abc import Callable
from pathlib import Path

from ravan.errors import RavanError

Fetch = Callable[[Callable[[bytes], object], int], None]
"""Writes what comes from an offset on."""


def download(path: Path, size: int, fetch: Fetch, check: Callable[[], None], wrong: type[RavanError]) -> None:
    """Fetches what of a file of ``size`` bytes is not here, durably; once more from its beginning if it is wrong then.

    ``check`` raises ``wrong`` for bytes that are not those that were promised.
    """
    goes_on = path.exists()
    try:
        _once(path, size, fetch, check)
    except wrong:
        path.unlink()
        if not goes_on:
            raise
        _once(path, size, fetch, check)  # what was here may be what a power cut left


def _once(path: Path, size: int, fetch: Fetch, check: Callable[[], None]) -> None:
    with path.open("ab") as file:
        if file.tell() < size:
            fetch(file.write, file.tell())
        file.flush()
        os.fsync(file.fileno())
    check()

"""Writing files so that a crash at any point leaves the old file or the whole new one."""

import contextlib
import fcntl
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from ravan.errors import EnvironmentProblem
from ravan.faults import reached


def write_atomically(path: Path, data: bytes, mode: int = 0o666, *, durably: bool = True) -> None:
    """Writes beside ``path``, syncs, renames over it and syncs the folder.

    ``mode`` is the file's from its first moment on, less what the process's umask takes: 0o600 for secrets. Not
    ``durably``, nothing is synced: a power cut may leave anything in the file, but a killed process nothing.
    """
    temporary = _temporary(path)
    try:
        with open(temporary, "wb", opener=partial(os.open, mode=mode)) as file:
            file.write(data)
            file.flush()
            reached("file-written")
            if durably:
                os.fsync(file.fileno())
        reached("file-synced")
        _rename(temporary, path, durably=durably)
    finally:
        temporary.unlink(missing_ok=True)


def move_atomically(source: Path, path: Path) -> None:
    """Syncs a file that is written already, renames it over ``path`` on the same disk, and syncs that one's folder.

    A file whose sync fails is removed, for nobody knows what of it is on the disk.
    """
    try:
        with source.open("rb") as file:
            os.fsync(file.fileno())
    except OSError:
        source.unlink(missing_ok=True)
        raise
    reached("file-synced")
    _rename(source, path)


def link_atomically(source: Path, path: Path) -> None:
    """Makes ``path`` another name of a synced file, or a copy of it where the disk knows one name for each."""
    temporary = _temporary(path)
    try:
        os.link(source, temporary)
    except OSError:
        write_atomically(path, source.read_bytes())
        return
    try:
        _rename(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """A name beside ``path`` that nothing has; what a killed process left there would keep its mode."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    temporary.unlink(missing_ok=True)
    return temporary


def _rename(source: Path, path: Path, *, durably: bool = True) -> None:
    os.replace(source, path)
    reached("file-renamed")
    if durably:
        sync_folder(path.parent)
    reached("folder-synced")


def drop_temporary(folder: Path) -> None:
    """Removes what a killed process left half written in a folder that nobody else writes to."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_folder(folder: Path, user: str, name: str = "lock") -> IO[str]:
    """Holds a folder for this process until the returned file is closed, or the process ends in any way.

    The file, ``name``, holds this process's id meanwhile.

    Raises:
        EnvironmentProblem: another process holds it; ``user`` says what that is ("server").
    """
    file = (folder / name).open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise EnvironmentProblem(f"Another {user} uses {folder}: stop it or choose another folder.") from None
    with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), str(os.getpid()).encode())
    return file


def holder(folder: Path, name: str) -> int | None:
    """Id of the process that holds a folder by ``lock_folder``; None if none does, or it has not said yet."""
    try:
        with (folder / name).open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read() or 0) or None
    except FileNotFoundError:
        pass
    return None


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill: it becomes ``out`` when the block succeeds and vanishes when it fails.

    Raises:
        EnvironmentProblem: ``out`` exists.
    """
    if out.exists():
        raise EnvironmentProblem(f"{out} exists already: choose another folder or remove it.")
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield folder
        folder.chmod(0o755)
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)

"""Small real disks for a state, on Linux as root: one in memory that fills up, one in a file that fails."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEMORY_BYTES = 32 << 20
FILE_BYTES = 64 << 20
OPTIONS = "loop,commit=600,errors=remount-ro"


def may_mount() -> bool:
    """Whether this process may mount file systems."""
    return hasattr(os, "geteuid") and os.geteuid() == 0 and Path("/dev/loop-control").exists()


@contextmanager
def disk_in_memory(folder: Path) -> Iterator[Path]:
    """A tmpfs of 32 MiB on a folder."""
    folder.mkdir(parents=True)
    _do("mount", "-t", "tmpfs", "-o", f"size={MEMORY_BYTES},mode=700", "tmpfs", folder)
    try:
        yield folder
    finally:
        _do("umount", folder)


@contextmanager
def disk_in_file(image: Path, folder: Path) -> Iterator[Path]:
    """An ext4 of 64 MiB in a file, mounted on a folder; made if the file is not there.

    It writes what is not synced only after minutes, and turns read-only at the first error, as disks of servers do.
    """
    if not image.exists():
        with image.open("wb") as file:
            file.truncate(FILE_BYTES)
        _do("mkfs.ext4", "-q", "-F", image)
    folder.mkdir(parents=True, exist_ok=True)
    _do("mount", "-o", OPTIONS, image, folder)
    try:
        yield folder
    finally:
        _do("umount", folder)


def fail(folder: Path) -> None:
    """An error of the disk behind a folder: the kernel makes it read-only."""
    device = os.stat(folder).st_dev
    name = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve().name
    Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("1", "ascii")


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """The disk of a folder has no byte left."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue
    try:
        yield
    finally:
        path.unlink()


def cut_power(image: Path, folder: Path) -> None:
    """What is left of a disk in a file when its machine loses power now: what was synced; it is mounted again."""
    left = image.with_suffix(".left")
    shutil.copyfile(image, left)
    _do("umount", folder)
    left.replace(image)
    _do("mount", "-o", OPTIONS, image, folder)


def mount_again(image: Path, folder: Path) -> None:
    """What an operator does with a disk that turned read-only: checks it and mounts it again."""
    _do("umount", folder)
    subprocess.run(["e2fsck", "-fy", str(image)], check=False, capture_output=True)
    _do("mount", "-o", OPTIONS, image, folder)


def _do(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True)

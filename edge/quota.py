"""Room on a device's disk: how much of it the home takes, and which bundles make way for another."""

import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import structlog

from ravan.errors import DiskFull, EnvironmentProblem

log = structlog.get_logger()
PARTIAL = ".partial"
"""Ends the name of a bundle's folder until all of its files are there."""
MEGABYTE = 1_000_000
SPARE = 16 << 20
"""Bytes of the disk that are left free for all that is small: a full disk stops more than us."""
BUNDLES = "bundles"
CACHE = "hidden.sqlite"
"""The file of a frozen prefix's results, below the home; see ``edge.hidden``."""
CACHE_FILES = (CACHE, f"{CACHE}-wal", f"{CACHE}-shm")


@dataclass(frozen=True)
class Quota:
    """The most bytes that a home may take, 0 for what the disk has.

    Attributes:
        home: the folder; all that is below it counts.
        most: bytes.
    """

    home: Path
    most: int = 0

    @property
    def used(self) -> int:
        """Bytes that the home takes."""
        return size_of(self.home)

    @property
    def free(self) -> int:
        """Bytes that the home may still take: of the quota, or of the disk if that has less."""
        on_disk = max(shutil.disk_usage(self.home).free - SPARE, 0)
        return min(on_disk, max(self.most - self.used, 0)) if self.most else on_disk

    def room_for_cache(self, most: int) -> int:
        """Bytes that the cache of frozen layers' results may have, ``most`` at most; some is left for the rest."""
        there = sum(size_of(self.home / name) for name in CACHE_FILES)
        return min(most, max(self.free + there - SPARE, 0))

    def make_room(self, bundle_id: str, size: int, in_use: Collection[str]) -> None:
        """Makes room for so many bytes of a bundle: others that nobody uses go, the longest unused first.

        Last goes the cache of frozen layers' results, if no bundle is in use that it may be of.

        Raises:
            DiskFull: it does not fit even so, for want of disk; nothing was removed.
            EnvironmentProblem: the same, for want of quota.
        """
        kept = {bundle_id, *in_use}
        others = [(folder, size_of(folder)) for folder in bundle_folders(self.home) if _id(folder) not in kept]
        cache = [path for name in CACHE_FILES if (path := self.home / name).exists()] if kept == {bundle_id} else []
        removable = sum(taken for _, taken in others) + sum(map(size_of, cache))
        if self.free + removable < size:
            raise self._too_little(size, removable)
        for folder, taken in others:
            if self.free >= size:
                return
            shutil.rmtree(folder)
            log.info("bundle removed", bundle=_id(folder)[:12], bytes=taken, reason="room for another")
        if self.free < size:
            for path in cache:
                path.unlink(missing_ok=True)
            log.info("cache removed", reason="room for a bundle")

    def _too_little(self, size: int, removable: int) -> EnvironmentProblem:
        fits, least = self.free + removable, self.used - removable + size
        need = f"The bundle takes {size / 1e6:.1f} MB more and {fits / 1e6:.1f} MB are left for it"
        if self.most and self.most < least:
            return EnvironmentProblem(f"{need}: give --disk-mb {-(-least // MEGABYTE)} at least.")
        return DiskFull(f"{need} on this disk: free some space, or give --home on another disk.")


def bundle_folders(home: Path) -> list[Path]:
    """A home's bundles, whole and partial, the longest unused first."""
    return sorted((home / BUNDLES).glob("*"), key=lambda path: path.stat().st_mtime)


def whole_bundles(home: Path) -> list[Path]:
    """Those of them whose files are all there."""
    return [folder for folder in bundle_folders(home) if not folder.name.endswith(PARTIAL)]


def mark_used(bundle: Path) -> None:
    """Says that a bundle is used now; reading its files would not tell, for few disks keep that time."""
    os.utime(bundle)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; what vanishes meanwhile counts nothing."""
    try:
        if not path.is_dir():
            return path.lstat().st_size
        return sum(size_of(child) for child in path.iterdir())
    except FileNotFoundError:
        return 0


def _id(folder: Path) -> str:
    return folder.name.removesuffix(PARTIAL)

"""The memory of a process with its children, watched from outside."""

import re
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

PROC = Path("/proc")
SECONDS = 0.1


class PeakMemory:
    """Largest sum of PSS of a process and what descends from it, while the block runs; Linux alone knows it."""

    def __init__(self, pid: int) -> None:
        self.bytes = 0
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(SECONDS):
            self.bytes = max(self.bytes, sum(_pss(pid) for pid in family(self._pid)))


def family(pid: int) -> list[int]:
    """A process and its descendants that are there now."""
    found = [pid]
    for parent in found:
        for task in (PROC / str(parent) / "task").glob("*/children"):
            try:
                found += map(int, task.read_text("ascii").split())
            except OSError:  # it ended meanwhile
                continue
    return found


def _pss(pid: int) -> int:
    try:
        text = (PROC / str(pid) / "smaps_rollup").read_text("ascii")
    except OSError:
        return 0
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0

"""How much anonymous memory a process and those it started hold at most.

Anonymous memory is what the system can neither drop nor read again from a file. It is sampled rather than limited: a
limit on a process's data (RLIMIT_DATA) would also count the weights, which onnxruntime maps privately and writable
though it never writes them.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS = 0.01  # between samples; a copy of gigabytes takes far longer


class Watch(threading.Thread):
    """Samples until told to stop.

    Attributes:
        peak: bytes.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._pid = pid
        self._over = threading.Event()

    def run(self) -> None:
        """The thread's work."""
        while not self._over.wait(SECONDS):
            self.peak = max(self.peak, sum(map(anonymous, _family(self._pid))))

    def stop(self) -> None:
        """Ends the sampling."""
        self._over.set()
        self.join()


@contextmanager
def watched(pid: int) -> Iterator[Watch]:
    """Samples a process during the block."""
    watch = Watch(pid)
    watch.start()
    try:
        yield watch
    finally:
        watch.stop()


def _family(pid: int) -> Iterator[int]:
    """A process, its children, and theirs."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in _read(children).split():
            yield from _family(int(child))


def anonymous(pid: int) -> int:
    """Bytes; 0 if the process has ended."""
    lines = _read(Path(f"/proc/{pid}/status")).splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except OSError:
        return ""

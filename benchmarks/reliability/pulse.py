"""Calls Health/Check over and over, from a process of its own, until its input ends; then prints what it saw.

usage: python -m benchmarks.reliability.pulse ADDRESS [CA]
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np

EVERY = 0.02  # seconds
LONGEST = 10.0


@dataclass
class Pulse:
    """Seconds that the answers took, and by how much the process itself woke late: how busy the machine was."""

    answers: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    failed: int = 0

    @property
    def slowest(self) -> float:
        """99th percentile of the answers, milliseconds."""
        return 1000 * float(np.percentile(self.answers, 99))

    def __str__(self) -> str:
        median, late = 1000 * float(np.median(self.answers)), 1000 * float(np.percentile(self.late, 99))
        return (
            f"{self.slowest:.0f} ms (median {median:.0f} ms, of {len(self.answers):,}; {self.failed} failed; "
            f"the asking process itself woke up to {late:.0f} ms late)"
        )


def main() -> None:
    """Asks until the input ends."""
    address, *ca = sys.argv[1:]
    ended = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    answers: list[float] = []
    late: list[float] = []
    failed = 0
    credentials = grpc.ssl_channel_credentials(Path(ca[0]).read_bytes()) if ca else None
    with grpc.secure_channel(address, credentials) if credentials else grpc.insecure_channel(address) as channel:
        check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
        check(b"", timeout=LONGEST, wait_for_ready=True)
        while not ended.is_set():
            began = time.perf_counter()
            time.sleep(EVERY)
            late.append(time.perf_counter() - began - EVERY)
            began = time.perf_counter()
            try:
                check(b"", timeout=LONGEST)
            except grpc.RpcError:
                failed += 1
            answers.append(time.perf_counter() - began)
    print(json.dumps([answers, late, failed]))


@contextmanager
def pulse(address: str, ca: Path | None = None) -> Iterator[Pulse]:
    """What a process sees that asks for the server's health meanwhile; filled in at the end."""
    command = [sys.executable, "-m", "benchmarks.reliability.pulse", address, *([str(ca)] if ca else [])]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    seen = Pulse()
    try:
        yield seen
        told, _ = process.communicate(b"", 60)
        seen.answers, seen.late, seen.failed = json.loads(told)
    finally:
        process.kill()
        process.wait()


class Memory:
    """The resident memory of a process, sampled on a thread of its own."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.before = self.largest = self.now()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def now(self) -> int:
        """Bytes."""
        text = Path(f"/proc/{self._pid}/status").read_text("ascii")
        return 1024 * int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS")))

    def grown(self) -> float:
        """Ends sampling; the largest growth, MB."""
        self._ended.set()
        self._thread.join()
        return (max(self.largest, self.now()) - self.before) / 1e6

    def _sample(self) -> None:
        while not self._ended.wait(0.25):
            try:
                self.largest = max(self.largest, self.now())
            except (OSError, StopIteration):
                return  # it ended


if __name__ == "__main__":
    main()

"""Processes of a contender, each with its children a group of its own, so that none outlives its turn."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ravan.errors import RuntimeProblem

GRACE = 10.0  # seconds


@contextmanager
def group(log: Path, environment: Mapping[str, str]) -> Iterator[Callable[[Sequence[str]], subprocess.Popen[bytes]]]:
    """Starts commands with their output in a log file; in the end all are asked to stop, then made to."""
    started: list[subprocess.Popen[bytes]] = []
    with log.open("ab") as output:

        def start(command: Sequence[str]) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, env={**os.environ, **environment}, start_new_session=True
            )
            started.append(process)
            return process

        try:
            yield start
        finally:
            _end(started)


def _end(started: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in reversed(started):
        _signal(process, signal.SIGTERM)
    until = time.monotonic() + GRACE
    for process in started:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(until - time.monotonic(), 0.1))
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def wait_until(done: Callable[[], bool], what: str, seconds: float) -> None:
    """Waits for something.

    Raises:
        RuntimeProblem: it takes too long.
    """
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() > until:
            raise RuntimeProblem(f"No {what} in {seconds:.0f} s: see the log beside it.")
        time.sleep(0.02)


def answers(port: int) -> bool:
    """Whether something listens on a port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])

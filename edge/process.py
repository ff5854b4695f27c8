"""The worker as its client holds it: a child process that can be paused, continued and ended."""

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

from edge.errors import WorkerEnded

END_SECONDS = 5.0
KILLED = "as the system does when memory runs short"


class WorkerProcess:
    """A process group of its own, so that whatever the worker starts is paused and ended with it; for one thread.

    It ends by itself once its standard input is closed, which this process's end does too. Should this process be
    killed while the worker is paused, the kernel wakes it, for nobody else could (POSIX: an orphaned process group).
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, bufsize=0, process_group=0)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._received = b""
        self.paused = False

    @property
    def pid(self) -> int:
        """Of the process, and of its group."""
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it is alive."""
        return self._process.poll() is None

    def send(self, message: Mapping[str, object]) -> None:
        """Raises WorkerEnded if nobody takes it."""
        try:
            self._stdin.write(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise self._ended() from error

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """The next message; None if none comes in time.

        Raises:
            WorkerEnded: and none will come.
        """
        until = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._stdout, select.POLLIN)
        while b"\n" not in self._received:
            if not poll.poll(max(until - time.monotonic(), 0) * 1000):
                return None
            data = os.read(self._stdout.fileno(), 1 << 16)
            if not data:
                raise self._ended()
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def pause(self) -> None:
        """Stops it where it is, at once; it keeps its memory."""
        if not self.paused:
            self._signal(signal.SIGSTOP)
            self.paused = True

    def go_on(self) -> None:
        """Lets it go on after ``pause``."""
        if self.paused:
            self._signal(signal.SIGCONT)
            self.paused = False

    def end(self) -> None:
        """Lets it end, which it does at once, or ends it."""
        with contextlib.suppress(OSError):
            self._stdin.close()
        self.go_on()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self._stdout.close()

    def kill(self) -> None:
        """Ends it where it is."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _ended(self) -> WorkerEnded:
        """In one sentence, how it ended."""
        try:
            code = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            return WorkerEnded("The worker did not answer any more and was ended: its run goes on at its checkpoint.")
        if code >= 0:
            return WorkerEnded(f"The worker ended with exit code {code}: what it said stands in the log above.")
        name = signal.Signals(-code).name
        why = f" ({KILLED})" if -code == signal.SIGKILL else ""
        return WorkerEnded(f"The worker was ended by {name}{why}: its run goes on at its last checkpoint.")

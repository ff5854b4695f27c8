"""ravan-server as a process of its own, to be killed and started again."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ravan.errors import EnvironmentProblem
from ravan.faults import VARIABLE
from ravan.processes import last_line
from server.control_address import ControlAddress, control_address
from server.tls import Tls

ANSWERS = '"event": "serving"'
START_SECONDS = 60.0
LEASE_SECONDS = 1.0


def free_port() -> int:
    """A port on loopback that nobody uses, below those that systems give to connections while the server is dead."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@dataclass
class Server:
    """One server over all its lives; whoever starts it must ``kill`` or ``stop`` it.

    Attributes:
        folder: where its state and its log are.
        secure: TLS and enrolled devices, or neither.
        port: the same in every life.
        database: URL of one that it shares with others; its own folder holds its state without.
        program: what is run with the arguments of ``ravan-server``.
        lives: how often it was started.
    """

    folder: Path
    secure: bool = False
    port: int = field(default_factory=free_port)
    database: str = ""
    program: tuple[str, ...] = ("server.cli",)
    lives: int = 0
    _process: subprocess.Popen[bytes] | None = None

    @property
    def state(self) -> Path:
        """The state folder."""
        return self.folder / "state"

    @property
    def log(self) -> Path:
        """What it said in all its lives."""
        return self.folder / "server.log"

    @property
    def address(self) -> str:
        """For devices."""
        return f"127.0.0.1:{self.port}"

    @property
    def control(self) -> ControlAddress:
        """For the operator."""
        return control_address(self.state, "")

    @property
    def ca(self) -> Path:
        """What devices trust."""
        return Tls.of(self.state).ca

    def initialize(self) -> None:
        """Makes the certificates."""
        self._command("init")

    def start(self, fault: str = "", environment: Mapping[str, str] | None = None) -> None:
        """Starts it; with a fault it kills itself there."""
        listen = ["--listen", self.address, "--state", self.database or str(self.state)]
        if self.database:
            listen += ["--folder", str(self.state), "--lease", str(LEASE_SECONDS)]
        command = [sys.executable, "-m", *self.program, "serve", *listen, *([] if self.secure else ["--insecure"])]
        added = {**(environment or {}), **({VARIABLE: fault} if fault else {})}
        self.lives += 1
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **added})

    def wait(self) -> None:
        """Returns once it answers.

        Raises:
            EnvironmentProblem: it ended instead.
        """
        end = time.monotonic() + START_SECONDS
        while self._said() < self.lives:
            if not self.runs or time.monotonic() > end:
                raise EnvironmentProblem(f"The server did not start: see {self.log}.")
            time.sleep(0.02)

    @property
    def runs(self) -> bool:
        """Whether it is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def crashed(self) -> bool:
        """Whether it ended by another signal, such as SIGSEGV."""
        return self._process is not None and (self._process.poll() or 0) < 0 and not self.was_killed

    @property
    def last_words(self) -> str:
        """The last line of its log."""
        return last_line(self.log.read_text("utf-8", "replace"))

    @property
    def was_killed(self) -> bool:
        """Whether it ended by SIGKILL."""
        return self._process is not None and self._process.poll() == -signal.SIGKILL

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """Kill -9, if it is alive."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """As Ctrl-C does."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)

    def _said(self) -> int:
        return self.log.read_text("utf-8", "replace").count(ANSWERS)

    def _command(self, name: str) -> None:
        command = [sys.executable, "-m", "server.cli", name, "--state", str(self.state)]
        subprocess.run(command, check=True, capture_output=True)

"""Real processes for tests: a server, and devices in an environment without torch."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

FAST = {"poll_min": 0.05, "poll_max": 0.1, "batch_size": 8}
"""Options of runs that should take no longer than they must."""
EDGE_PYTHON = Path(os.environ.get("RAVAN_TEST_EDGE_PYTHON", ROOT / ".venv-edge/bin/python"))


def edge_python() -> str:
    """The Python of the edge environment."""
    if not EDGE_PYTHON.exists():
        pytest.fail(f"{EDGE_PYTHON} does not exist: run make setup, or set RAVAN_TEST_EDGE_PYTHON")
    return str(EDGE_PYTHON)


def free_port() -> int:
    """A port on loopback that nobody uses right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Waits for something to become true, and fails by its name if it does not."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.02)


def run_of(fleet: "Fleet") -> dict[str, Any]:
    """The newest run, as the server tells of it."""
    runs: Any = fleet.status()["runs"]
    found: dict[str, Any] = runs[0]
    return found


@dataclass
class Fleet:
    """One server and its devices, all below one folder; everything started is ended by ``end``.

    Attributes:
        secure: whether devices must enroll and speak TLS, or neither.
        program: the command that is ravan-edge; by default the edge environment's.
    """

    folder: Path
    secure: bool = False
    program: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def state(self) -> Path:
        return self.folder / "server"

    @property
    def edge(self) -> tuple[str, ...]:
        """The command that is ravan-edge."""
        return self.program or (edge_python(), "-m", "edge.cli")

    def start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        """Starts a process with its output appended to ``<name>.log``."""
        clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log, env=clean, cwd=self.folder)
        return self.processes[name]

    def serve(self, *options: str) -> subprocess.Popen[bytes]:
        """Starts the server and waits until it answers."""
        listen = ["--listen", f"127.0.0.1:{self.port}", "--state", str(self.state)]
        security = [] if self.secure else ["--insecure"]
        process = self.start("server", [sys.executable, "-m", "server.cli", "serve", *listen, *security, *options])
        before = self.log("server").count('"serving"')
        until(lambda: self.log("server").count('"serving"') > before or process.poll() is not None, "the server")
        return process

    def create(self, bundle: Path, **options: object) -> None:
        """Starts a run through the command line."""
        flags = [str(x) for name, value in options.items() for x in (f"--{name.replace('_', '-')}", value)]
        command = [sys.executable, "-m", "server.cli", "create", "--state", str(self.state), "--bundle", str(bundle)]
        done = subprocess.run([*command, *flags], capture_output=True, text=True, cwd=self.folder, check=False)
        assert done.returncode == 0, done.stderr

    def device(
        self, name: str, *data: Path, options: tuple[str, ...] = (), python: str | None = None
    ) -> subprocess.Popen[bytes]:
        """Starts a client, in the edge environment unless another Python is given."""
        flags = ["--home", str(self.folder / name), "--until-finished", "--priority", "normal", *options]
        if not self.secure:
            flags += ["--server", f"127.0.0.1:{self.port}", "--insecure"]
        for path in data:
            flags += ["--data", str(path)]
        program = (python, "-m", "edge.cli") if python else self.edge
        return self.start(name, [*program, "run", *flags])

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of ravan-server on this server's state, or of ravan-edge, to its end."""
        program, *rest = arguments
        command = [sys.executable, "-m", "server.cli", *rest, "--state", str(self.state)]
        if program == "ravan-edge":
            command = [*self.edge, *rest]
        return subprocess.run(command, capture_output=True, text=True, cwd=self.folder, check=False, timeout=60)

    def enroll(self, home: str, token: str, *options: str, ca: str = "server/tls/ca.pem") -> None:
        """Enrolls a device with a token, as its owner does."""
        where = ["--server", f"127.0.0.1:{self.port}", "--ca", str(self.folder / ca), "--home", str(self.folder / home)]
        done = self.run("ravan-edge", "enroll", *where, "--token", token, *options)
        assert done.returncode == 0, done.stderr

    def status(self) -> dict[str, object]:
        """What ravan-server status tells."""
        command = [sys.executable, "-m", "server.cli", "status", "--format", "json", "--state", str(self.state)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, check=True)
        found: dict[str, object] = json.loads(done.stdout)
        return found

    def log(self, name: str) -> str:
        """Everything a process has said."""
        path = self.folder / f"{name}.log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def kill(self, name: str) -> None:
        """kill -9."""
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes[name].wait()

    def finished(self, seconds: float = 90) -> None:
        """Waits until every client has ended well."""
        for name, process in self.processes.items():
            if name != "server":
                assert process.wait(seconds) == 0, self.log(name)

    def end(self) -> None:
        """Ends whatever still runs."""
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()

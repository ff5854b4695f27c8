"""A turn of our server: its own process, a process for every client, and nothing but the product in them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.memory import PeakMemory
from benchmarks.serving.processes import answers, free_port, group, wait_until
from benchmarks.serving.proxy import Counted, counting
from benchmarks.serving.turns import Turn, Work, durations
from demo.processes import finish
from ravan.bundle import Bundle
from ravan.wire import WireFormat
from server import client
from server.control_address import control_address
from server.records import RoundState
from server.sql_state import open_sqlite
from server.tls import Tls

START_SECONDS, ROUND_SECONDS, CLIENT_SECONDS = 60.0, 30.0, 8.0
TOKEN_SECONDS = 3600.0
POLL = {"poll_min": 0.5, "poll_max": 1.0}
"""Seconds between check-ins; in a round nobody polls, but a server that ends waits until everybody must have heard."""


@dataclass(frozen=True)
class Ours:
    """Our server, over TLS with signed calls and enrolled devices or, ``insecure``, without."""

    bundle: Bundle
    insecure: bool
    wire: WireFormat = WireFormat.FP32

    def play(self, work: Work, folder: Path, *, count: bool = False) -> Turn:
        """All rounds; bytes are counted by a proxy, which costs time, if so asked.

        Raises:
            RuntimeProblem: it takes too long; logs are in ``folder``.
        """
        state, port = folder / "state", free_port()
        serve = [sys.executable, "-m", "server.cli", "serve", "--state", str(state), "--listen", f"127.0.0.1:{port}"]
        if not self.insecure:
            finish([sys.executable, "-m", "server.cli", "init", "--state", str(state)])
        with group(folder / "server.log", {}) as start:
            server = start([*serve, "--until-finished", *(["--insecure"] if self.insecure else [])])
            wait_until((state / "control.sock").exists, "server", START_SECONDS)
            wait_until(lambda: answers(port), "server", START_SECONDS)
            with way(port, count=count) as counted, PeakMemory(server.pid) as memory:
                self._begin(work, state)
                with group(folder / "clients.log", {"OMP_NUM_THREADS": "1"}) as start_client:
                    for command in self._clients(work, folder, counted.port):
                        start_client(command)
                    seconds = START_SECONDS + CLIENT_SECONDS * work.clients + ROUND_SECONDS * work.rounds
                    wait_until(lambda: server.poll() is not None, "end of the run", seconds)
        return Turn(durations(_ends(state)), memory.bytes, counted.up, counted.down)

    def _begin(self, work: Work, state: Path) -> None:
        options = {"bundle": str(self.bundle.folder), "rounds": work.rounds, "clients_per_round": work.clients}
        client.create_run(control_address(state, ""), {**options, **POLL, "wire": self.wire})

    def _clients(self, work: Work, folder: Path, port: int) -> list[list[str]]:
        state = folder / "state"
        tokens: list[str] = []
        if not self.insecure:
            tokens += client.create_tokens(control_address(state, ""), work.clients, TOKEN_SECONDS).tokens
        commands = []
        for number in range(work.clients):
            command = [sys.executable, "-m", "benchmarks.serving.client", f"127.0.0.1:{port}"]
            command += [str(folder / f"client-{number}"), f"client-{number}"]
            commands.append(command + ([str(Tls.of(state).ca), tokens[number]] if tokens else []))
        return commands


@contextmanager
def way(port: int, *, count: bool) -> Iterator[Counted]:
    """Straight to the server's port, or through a proxy that counts."""
    if not count:
        yield Counted(port)
        return
    with counting(port) as counted:
        yield counted


def _ends(state: Path) -> list[float]:
    stored = open_sqlite(state)
    try:
        rounds = stored.rounds(stored.runs()[0].run_id)
        return [r.closed_at for r in rounds if r.state is RoundState.PUBLISHED and r.closed_at is not None]
    finally:
        stored.close()

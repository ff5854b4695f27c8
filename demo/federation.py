"""A federation of processes on this machine: a server, clients that play devices, and what is told of a run."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from demo.processes import ending_together, finish, running, wait_for
from protos.ravan.v1 import control_pb2 as pb
from server import client
from server.control_address import ControlAddress, control_address
from server.tables import metric_name, score, size
from server.tls import Tls

console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
ENROLLING_SECONDS = 3600.0
BUDGETS = (1.0, 1.0, 0.5, 0.25)
"""Share of the heads that the devices of each client process train; the last are the weakest."""


@dataclass(frozen=True)
class Kept:
    """Where a federation keeps what.

    Attributes:
        out: folder for the server's state, the clients' homes, logs and the trained adapter.
    """

    out: Path

    @property
    def state(self) -> Path:
        """The server's folder."""
        return self.out / "server"

    @property
    def adapter(self) -> Path:
        """The last round's adapter."""
        return self.out / "adapter.safetensors"


@dataclass(frozen=True)
class Federation(Kept):
    """Who takes part.

    Attributes:
        shards: data files or folders, one a device.
        processes: client processes that the devices are dealt out to.
        edge_python: Python of the edge environment.
        listen: the server's address.
        threads: of a client's training step, 0 for all cores.
    """

    shards: Sequence[Path]
    processes: int
    edge_python: Path
    listen: str
    threads: int = 0

    def train(self, options: Mapping[str, object]) -> pb.Run:
        """Runs the server and the devices, over TLS and enrolled, until the run has finished; returns its status.

        Every device must be there before the first round. ``options`` are those of ``ravan-server create``.
        """
        logs = self.out / "logs"
        logs.mkdir(exist_ok=True)
        server = [sys.executable, "-m", "server.cli", "serve", "--state", str(self.state), "--listen", self.listen]
        address = control_address(self.state, "")
        finish([sys.executable, "-m", "server.cli", "init", "--state", str(self.state)])
        with running([server], [logs / "server.log"]) as (process,):
            wait_for(self.state / "control.sock", process, logs / "server.log")
            everyone = {"min_devices": len(self.shards), "poll_min": 0.3, "poll_max": 1.0}
            client.create_run(address, {**everyone, **options})
            for number, shards in enumerate(self._dealt(), 1):
                tokens = client.create_tokens(address, len(shards), ENROLLING_SECONDS).tokens
                finish(self._enroll(number, shards, tokens))
            clients = {logs / f"edge-{number}.log": command for number, command in enumerate(self._clients(), 1)}
            with running([*clients.values()], [*clients]) as started, ending_together(started, process):
                run = watch_run(address)
            self.adapter.write_bytes(client.export_adapter(address, "", best=False))
        return run

    def _dealt(self) -> list[Sequence[Path]]:
        """The devices of each client process; each plays every so many-th."""
        return [self.shards[first :: self.processes] for first in range(min(self.processes, len(self.shards)))]

    def _enroll(self, number: int, shards: Sequence[Path], tokens: Sequence[str]) -> list[str]:
        """The command that enrolls a client process's devices."""
        command = [str(self.edge_python), "-m", "edge.cli", "enroll", "--home", str(self._home(number))]
        command += ["--server", self.listen, "--ca", str(Tls.of(self.state).ca)]
        for shard, token in zip(shards, tokens, strict=True):
            command += ["--name", shard.stem, "--token", token]
        return command

    def _clients(self) -> list[list[str]]:
        """The commands of the client processes."""
        commands = []
        for number, shards in enumerate(self._dealt(), 1):
            command = [str(self.edge_python), "-m", "edge.cli", "run", "--until-finished", "--priority", "normal"]
            command += ["--home", str(self._home(number)), "--threads", str(self.threads)]
            command += ["--heads", str(BUDGETS[(number - 1) % len(BUDGETS)])]
            for shard in shards:
                command += ["--data", str(shard)]
            commands.append(command)
        return commands

    def _home(self, number: int) -> Path:
        return self.out / f"edge-{number}"


def watch_run(address: ControlAddress) -> pb.Run:
    """Prints what happens as it happens; returns the run's last status."""
    said: set[str] = set()
    run = pb.Run()
    for run in client.watch(address, ""):
        lines = [f"before training: {held_out(run, run.initial)}"] if run.HasField("initial") else []
        for r in run.rounds:
            lines += [
                f"round {r.number}: {count} of {r.selected} updates received" for count in range(1, r.received + 1)
            ]
            if r.HasField("evaluation"):
                lines.append(
                    f"round {r.number}: {held_out(run, r.evaluation)}, loss {r.evaluation.loss:.3f}, "
                    f"{size(r.bytes_up)} up, {size(r.bytes_down)} down, {r.seconds:.0f} s"
                )
        for line in lines:
            if line not in said:
                said.add(line)
                console.print(f"    {line}")
    return run


def held_out(run: pb.Run, evaluation: pb.Evaluation) -> str:
    """An evaluation in words, by the run's metric."""
    return f"held-out {metric_name(run)} {score(run, evaluation)}"


def traffic(run: pb.Run) -> dict[str, int]:
    """Mean bytes up and down per client and round."""
    received, selected = sum(r.received for r in run.rounds), sum(r.selected for r in run.rounds)
    return {
        "bytes_up_per_client_round": round(sum(r.bytes_up for r in run.rounds) / received),
        "bytes_down_per_client_round": round(sum(r.bytes_down for r in run.rounds) / selected),
    }


def ravan_export(*arguments: object) -> None:
    """Runs ravan-export as a user does."""
    subprocess.run([sys.executable, "-m", "export.cli", *map(str, arguments)], check=True)


def say(text: str) -> None:
    """A line of progress."""
    console.print(f"[bold]{text}[/bold]")

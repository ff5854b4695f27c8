"""A real client with its worker over many lives, against a real server: what all trials of devices have in common.

A trial is a run of one device whose uploads are coded in int8, so that what one of them leaves out is in the bits of
the next. Each life of the device but the last is ended with kill -9: at a named point of client or worker, or at any
moment of one of them or both. In the end the server's state is asked whether every round's update has the bits that it
has without a kill, and the device's folder whether anything is left.
"""

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.reliability.hosts import Server
from benchmarks.reliability.lines import Line
from benchmarks.reliability.tiny import tiny_data
from edge.client import ClientSettings
from edge.enrollment import enroll
from edge.home import Home
from edge.itself import own_command
from edge.job import WORKER_LOCK, DataOptions, Priority, WorkerSettings
from edge.options import DeviceOptions
from edge.outbox import Finished
from edge.runtimes import Runtimes
from edge.setting_out import equipment
from ravan.faults import VARIABLE
from ravan.files import holder, write_atomically
from ravan.processes import last_line
from server import client
from server.records import AssignmentState, RoundState, RunState
from server.sql_state import open_sqlite

NAME = "one"
DEVICE_ID = "0123456789abcdef" * 2
STEPS = 12
LIFE_SECONDS = 60.0
TOKEN_SECONDS = 3600.0
CLIENT, WORKER, BOTH = "client at any moment", "worker at any moment", "both at any moment"
MOMENTS = (CLIENT, WORKER, BOTH)
OPTIONS: dict[str, Any] = {
    "clients_per_round": 1,
    "min_devices": 1,
    "deadline": 3600.0,
    "poll_min": 0.05,
    "poll_max": 0.1,
    "local_steps": STEPS,
    "batch_size": 8,
    "learning_rate": 0.01,
    "saved_learning_rate": 0.01,
    "wire": "int8",
    "keep_updates": 1000,
    "max_norm_ratio": 0,
}


@dataclass
class Client:
    """The device's client process, in all its lives.

    Attributes:
        home: its folder.
        settings: what it is started with.
        log: what client and workers said in all lives.
        environment: added to every life's.
    """

    home: Path
    settings: ClientSettings
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None

    def start(self, fault: str = "") -> None:
        """Begins a life, which may end at a fault."""
        descriptor = os.memfd_create("settings")
        os.write(descriptor, self.settings.to_json().encode())
        os.lseek(descriptor, 0, os.SEEK_SET)
        added = {**self.environment, **({VARIABLE: fault} if fault else {})}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*own_command("_client"), str(descriptor)],
                stdout=log,
                stderr=log,
                env={**os.environ, **added},
                pass_fds=[descriptor],
            )
        os.close(descriptor)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """Of this life."""
        assert self._process is not None
        return self._process

    @property
    def worker(self) -> int | None:
        """Process id of its worker; None if there is none."""
        return holder(self.home, WORKER_LOCK)

    def kill(self, *, client: bool = True, worker: bool = True) -> None:
        """Kill -9."""
        pid = self.worker
        if client:
            self.process.kill()
            self.process.wait()
        if worker and pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        while client and worker and self.worker is not None:  # it is gone, or ends for want of a client
            time.sleep(0.005)

    def wait_until_said(self, event: str, times: int = 1) -> None:
        """Returns once its log has an event so often, or it has ended."""
        while self.process.poll() is None and sum(e["event"] == event for e in self.said()) < times:
            time.sleep(0.02)

    def said(self) -> list[dict[str, Any]]:
        """Its log's events."""
        if not self.log.exists():
            return []
        lines = self.log.read_text("utf-8", "replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


@dataclass
class DeviceTrial:
    """One run over many lives of one device.

    Attributes:
        folder: empty, or not there.
        bundle: see ``tiny.py``.
        lives: how each but the last ends: a fault as ``point:time``, or one of ``MOMENTS``.
        rounds: of the run.
        seed: of the moments.
        between: called between two of its lives.
        meanwhile: called in the last life, on a thread of its own.
        environment: of the device's processes, beside what there is.
        secure: over TLS, with a device that enrolls; else over ``line``.
        kills: by what ended the life.
        updates: sha256 of every round's update, as the server has it.
        resumed: local runs that went on at a checkpoint.
        twice: local runs whose update was in the outbox already.
        problems: what is not as it must be.
    """

    folder: Path
    bundle: Path
    lives: Sequence[str]
    rounds: int
    seed: int = 0
    between: Callable[["DeviceTrial"], None] = lambda trial: None
    meanwhile: Callable[["DeviceTrial"], None] = lambda trial: None
    secure: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    updates: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    resumed: int = 0
    twice: int = 0

    def run(self) -> "DeviceTrial":
        """Plays the run to its end, and looks at what is left."""
        self.folder.mkdir(exist_ok=True)
        self.server = Server(self.folder, self.secure)
        if self.secure:
            self.server.initialize()
        self.server.start()
        with ExitStack() as stack:
            stack.callback(self.server.kill)
            self.server.wait()
            client.create_run(self.server.control, {**OPTIONS, "rounds": self.rounds, "bundle": str(self.bundle)})
            self.line = stack.enter_context(Line(self.server.port))
            address = self.server.address if self.secure else self.line.address
            self.device = new_client(self.folder, address, insecure=not self.secure)
            self.device.environment = self.environment
            if self.secure:
                self._enroll()
            self._live(self.device)
        self._look(self.server, self.device)
        return self

    def _enroll(self) -> None:
        (token,) = client.create_tokens(self.server.control, 1, TOKEN_SECONDS).tokens
        with closing(Home(self.device.home)) as home:
            enroll(home.identities, NAME, self.server.address, self.server.ca.read_text(), token)

    def _live(self, device: Client) -> None:
        generator, finished = random.Random(self.seed), set[int]()
        for ending in self.lives:
            before = len(device.said())
            device.start("" if ending in MOMENTS else ending)
            killed = _end_at(device, generator, ending)
            device.kill()
            if killed:
                self.kills[ending.partition(":")[0]] += 1
            self._note(device.said()[before:], finished)
            finished |= in_outbox(device)
            if device.process.returncode == 0:
                break  # the run has finished
            self.between(self)
        before = len(device.said())
        device.start()
        weather = threading.Thread(target=self.meanwhile, args=(self,))
        weather.start()
        try:
            code = device.process.wait(LIFE_SECONDS * (self.rounds + 1))
            words = last_line(device.log.read_text("utf-8", "replace"))
            self.check(code == 0, f"the last life ended with exit code {code}: {words[-200:]}")
        except subprocess.TimeoutExpired:
            self.problems.append("the run did not finish in time")
            device.kill()
        weather.join()
        self._note(device.said()[before:], finished)

    def _note(self, said: Sequence[dict[str, Any]], finished: set[int]) -> None:
        """Whether a life trained what earlier ones had left in the outbox."""
        self.resumed += sum(event["event"] == "local run goes on" for event in said)
        again = sum(event["event"] == "training" and event.get("round") in finished for event in said)
        self.twice += again
        self.check(not again, "a finished update was trained again")

    def _look(self, server: Server, device: Client) -> None:
        with closing(open_sqlite(server.state)) as state:
            (run,) = state.runs()
            rounds = state.rounds(run.run_id)
            self.check(run.state is RunState.FINISHED, "the run has not finished")
            self.check({r.state for r in rounds} == {RoundState.PUBLISHED}, "a round was not published")
            parts = sorted(state.assignments(run.run_id), key=lambda part: part.round)
            self.check({part.state for part in parts} == {AssignmentState.RECEIVED}, "a round lacks the update")
            self.updates = [str(part.sha256) for part in parts]
        left = [path for path in device.home.rglob("*") if path.suffix in (".tmp", ".partial")]
        left += list((device.home / "work").glob("*/*"))
        self.check(not left, f"files are left: {[path.name for path in left]}")

    def check(self, holds: bool, otherwise: str) -> None:  # noqa: FBT001
        """Notes a problem unless something holds."""
        if not holds:
            self.problems.append(otherwise)


def new_client(folder: Path, address: str, *, insecure: bool = True) -> Client:
    """A client whose device has the same id in every trial, so that its local runs are the same."""
    home, data = folder / "home", tiny_data(folder / "data.npz")
    with closing(Home(home)) as opened:
        write_atomically(opened.identities.path(NAME), DEVICE_ID.encode())
    worker = WorkerSettings(home, threads=1, priority=Priority.NORMAL, checkpoint_seconds=0)
    devices = (DeviceOptions(NAME, DataOptions(data), head_budget=0.7, until_finished=True),)
    settings = ClientSettings(address, insecure, worker, equipment(Runtimes()), devices)
    return Client(home, settings, folder / "device.log")


def in_outbox(device: Client) -> set[int]:
    """Rounds whose update is in the outbox."""
    found = [Finished.read(path) for path in (device.home / "work").glob("*/finished")]
    return {finished.header.binding.round for finished in found if finished}


def _end_at(device: Client, generator: random.Random, ending: str) -> bool:
    """Waits until a fault has ended client or worker, or ends them at any moment; False if the run ended before."""
    end, moment = time.monotonic() + LIFE_SECONDS, generator.uniform(0.3, 2.0)
    began = time.monotonic()
    size = device.log.stat().st_size
    while device.process.poll() is None and time.monotonic() < end:
        if ending in MOMENTS and time.monotonic() > began + moment:
            if ending == WORKER:
                if device.worker is None:
                    time.sleep(0.01)
                    continue
                device.kill(client=False)
                time.sleep(generator.uniform(0, 0.2))
                return True
            device.kill(worker=ending == BOTH)
            return True
        if b'"worker-ended"' in device.log.read_bytes()[size:]:
            return True
        time.sleep(0.01)
    return device.process.poll() == -signal.SIGKILL

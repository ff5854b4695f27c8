"""Promise 10: bad weather, made for real where the machine lets it: each in the middle of a run.

A scene is a run of two rounds with one device. In the first round the weather turns bad before the device uploads: what
it then hears is noted. The weather clears, and the client that devices use must come through by itself. The run must
end with the bits of a run in fair weather, over a sound database. Where a scene says nothing else the server stays up.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from benchmarks.reliability.bound import Caller, refusal
from benchmarks.reliability.broken_lines import cut_lines, half_open_lines
from benchmarks.reliability.bundle import SMALL, filler_bundle
from benchmarks.reliability.devices import CAPABILITIES, Device, Reference, draw, plain_devices
from benchmarks.reliability.disks import disk_in_file, disk_in_memory, fail, filled, may_mount, mount_again
from benchmarks.reliability.figures import Figure
from benchmarks.reliability.hosts import Server
from benchmarks.reliability.once import until_task
from benchmarks.reliability.stormy import VARIABLE
from benchmarks.reliability.wrong_clocks import wrong_clocks
from protos.ravan.v1 import fleet_pb2 as pb
from protos.ravan.v1 import fleet_pb2_grpc as rpc
from ravan.bundle import INITIAL
from ravan.files import write_atomically
from ravan.update import decode, encode
from server import client
from server.settings import RunOptions
from server.sql_state import DATABASE, open_sqlite

Weather = Callable[["Scene"], AbstractContextManager[None]]
DAY = 86_400.0
FINISH_SECONDS = 120.0
PATIENCE = 150.0
CLOCK_SECONDS = 2.5
AWAY, FULL = ("environment", "UNAVAILABLE"), ("disk-full", "UNAVAILABLE")
OVER, SERVED = ("stale-round", "FAILED_PRECONDITION"), ("", "")
OPTIONS: dict[str, Any] = {"rounds": 2, "clients_per_round": 1, "poll_min": 0.01, "poll_max": 0.02, "max_norm_ratio": 0}


@dataclass
class Scene:
    """A server, a run and its device.

    Attributes:
        folder: where the server's state folder is.
        heard: code and status of an upload, and of a check-in, in bad weather; empty for one that was served.
        problems: what is not as it must be in the end.
        seconds: from clear weather to the device's next receipt.
    """

    folder: Path
    heard: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def play(self, weather: Weather) -> "Scene":
        """The whole scene."""
        self.server = Server(self.folder, program=("benchmarks.reliability.stormy",))
        self.file = self.folder / "weather.json"
        self.is_now()
        self.bundle = filler_bundle(self.folder / "bundle")
        with ExitStack() as stack:
            stack.callback(self.server.kill)
            self.start()
            client.create_run(self.server.control, {**OPTIONS, "bundle": str(self.bundle.folder)})
            (device,) = plain_devices(self.server, SMALL, 1)
            stack.callback(device.end)
            task = until_task(device.client)
            with weather(self):
                self.heard = self._listen(task)
            self._finish(device)
        self._look(device)
        return self

    def is_now(self, **weather: object) -> None:
        """What is wrong with the server's machine from now on."""
        write_atomically(self.file, json.dumps(weather).encode())

    def start(self) -> None:
        """Starts the server, once more perhaps."""
        self.server.start(environment={VARIABLE: str(self.file)})
        self.server.wait()

    def _listen(self, task: pb.Task) -> list[tuple[str, str]]:
        """What a device hears that uploads now, and one that checks in."""
        base = decode(SMALL, (self.bundle.folder / INITIAL).read_bytes())
        data = encode(SMALL, draw(SMALL, base, 0, 1))
        request = pb.CheckInRequest(device_id=f"{1:032x}", name="weather", capabilities=CAPABILITIES)
        with grpc.insecure_channel(self.server.address) as channel:
            caller = Caller(self.server, rpc.FleetStub(channel), data)
            return [
                refusal(lambda: caller.upload(request.device_id, task.binding, data, PATIENCE)),
                refusal(lambda: caller.stub.CheckIn(request, timeout=PATIENCE)),
            ]

    def _finish(self, device: Device) -> None:
        """Lets the device go on by itself to the end of the run."""
        device.start()
        began = time.monotonic()
        while not device.is_done and time.monotonic() < began + FINISH_SECONDS:
            if device.receipts and not self.seconds:
                self.seconds = time.monotonic() - began
            time.sleep(0.01)
        if not device.is_done:
            self.problems.append("the run did not finish")

    def _look(self, device: Device) -> None:
        """Asks the state on disk."""
        options = RunOptions(**OPTIONS)
        reference = Reference(SMALL, (self.bundle.folder / INITIAL).read_bytes(), options)
        with closing(open_sqlite(self.server.state)) as state:
            (run,) = state.runs()
            published = [r for r in state.rounds(run.run_id) if r.adapter]
        for r in published:
            update = draw(SMALL, reference.adapter, 0, r.number)
            if r.adapter != reference.publish({device.device_id: update}):
                self.problems.append(f"round {r.number} has other bits than in fair weather")
        if len(published) != options.rounds:
            self.problems.append(f"{len(published)} rounds were published")
        with closing(sqlite3.connect(self.server.state / DATABASE)) as database:
            if database.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
                self.problems.append("the database is damaged")


@contextmanager
def disk_full(scene: Scene) -> Iterator[None]:
    """Not a byte is left."""
    with filled(scene.server.state):
        yield


def read_only(image: Path) -> Weather:
    """The kernel makes the disk read-only after an error; the operator mounts it again and starts the server."""

    @contextmanager
    def weather(scene: Scene) -> Iterator[None]:
        fail(scene.server.state)
        yield
        scene.server.kill()
        mount_again(image, scene.server.state)
        scene.start()

    return weather


def machine(**weather: object) -> Weather:
    """Something that ``stormy.py`` makes."""

    @contextmanager
    def now(scene: Scene) -> Iterator[None]:
        scene.is_now(**weather)
        time.sleep(CLOCK_SECONDS)  # for the coordinator to see the time
        yield
        scene.is_now()

    return now


@contextmanager
def locked(scene: Scene) -> Iterator[None]:
    """Another program holds the database."""
    with closing(sqlite3.connect(scene.server.state / DATABASE, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield


def figures(folder: Path) -> Iterator[Figure]:
    """Every scene; disks only where they may be mounted."""
    if may_mount():
        with disk_in_memory(folder / "full" / "state"):
            yield figure("disk full (a tmpfs of 32 MiB)", Scene(folder / "full").play(disk_full), FULL, AWAY)
        image = folder / "disk.img"
        with disk_in_file(image, folder / "read-only" / "state"):
            scene = Scene(folder / "read-only").play(read_only(image))
        yield figure("disk read-only (an ext4 after an error; mounted again, server started)", scene, AWAY, AWAY)
    else:
        yield Figure(10, "disk full, disk read-only", "real disks", "not tried: needs root to mount them", met=False)
    yield figure("fsync fails (EIO)", _scene(folder / "fsync").play(machine(fsync="EIO")), AWAY, SERVED)
    yield figure("database locked by another program", _scene(folder / "locked").play(locked), AWAY, AWAY)
    for name, seconds, upload in (("ahead", DAY, OVER), ("back", -DAY, SERVED)):
        scene = _scene(folder / name).play(machine(clock=seconds))
        yield figure(f"server's clock jumps a day {name} in a round, and later back", scene, upload, SERVED)
    yield from wrong_clocks(folder / "clocks")
    yield from cut_lines(folder / "cut")
    yield from half_open_lines(folder / "half-open")


def figure(what: str, scene: Scene, upload: tuple[str, str], check_in: tuple[str, str]) -> Figure:
    """What a scene amounts to."""
    heard = [" ".join(words) if any(words) else "served" for words in scene.heard]
    wanted = [" ".join(words) if any(words) else "served" for words in (upload, check_in)]
    end = "; ".join(scene.problems) or f"bit-equal end, database sound, receipt {scene.seconds:.1f} s after it cleared"
    return Figure(
        10,
        what,
        f"upload: {wanted[0]}, check-in: {wanted[1]}; then recovery without loss",
        f"upload: {heard[0]}, check-in: {heard[1]}; {end}",
        met=heard == wanted and not scene.problems,
    )


def _scene(folder: Path) -> Scene:
    folder.mkdir()
    return Scene(folder)

"""Promise 9: no message brings the server down, costs it memory or keeps it from answering others.

Two servers have an open round each. To one without keys go messages of every method of devices, operator and health
check, to one with TLS and enrolled devices those of devices and enrollment, signed as they are so that they get past
the gate. Each is filled from the method's descriptor, by a device with a part in the round, then damaged: in its bytes
(``mutations.py``), in its values, in the order and number of a stream's messages, in the update that it carries
(``flood.py``). At the end come bombs (``bombs.py``): gzip, messages that are too long, uploads without end, bytes that
are no HTTP/2. Then the other devices upload as if nothing had been. Another process asks for the server's health all
the while (``pulse.py``).
"""

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.reliability.bombs import BOMBS, LONG, Wire, no_http, too_long
from benchmarks.reliability.bundle import SMALL, filler_bundle
from benchmarks.reliability.devices import (
    Device,
    draw,
    enrolled_devices,
    expected,
    header_of,
    plain_devices,
    tasks_of,
)
from benchmarks.reliability.figures import Figure
from benchmarks.reliability.flood import Call, Sender
from benchmarks.reliability.hosts import Server
from benchmarks.reliability.pulse import Memory, Pulse, pulse
from protos.ravan.v1 import fleet_pb2 as pb
from ravan.bundle import INITIAL
from ravan.rpc.transfer import MESSAGE_LIMIT
from ravan.update import decode, encode
from server import client
from server.settings import RunOptions
from server.sql_state import open_sqlite

PLAIN, SIGNED = 45_000, 5_000
MEMORY, HEALTH = 50.0, 50.0  # MB, ms
CONNECTIONS, PIPELINED = 4, 3
HONEST = 3
BAD = ("INTERNAL", "UNKNOWN")
OPTIONS = {
    "rounds": 1,
    "clients_per_round": HONEST + 1,
    "min_updates": HONEST + 1,
    "min_devices": HONEST + 2,
    "over_select": 1,
    "deadline": 3600.0,
    "max_norm_ratio": 0.0,
}
"""Who floods the server has two parts in the round: an update that is counted before, and one that never is."""


def figures(folder: Path) -> Iterator[Figure]:
    """A server without keys, then one with."""
    plain = Trial(folder / "plain", PLAIN).run()
    yield from plain.figures("devices without keys, operator and health check")
    keyed = Trial(folder / "signed", SIGNED, secure=True).run()
    yield from keyed.figures("enrolled devices over TLS, signed")


@dataclass
class Trial:
    """A flood against one server, and the round that follows.

    Attributes:
        statuses: of the answers.
        wrong: what was sent for an answer that must not be.
        seconds: that the flood took.
        growth: of the server's memory, MB at most, and at the end.
        same: whether the adapter that followed has the bits of an undisturbed run.
    """

    folder: Path
    count: int
    secure: bool = False
    seed: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    growth: tuple[float, float] = (0.0, 0.0)
    pulse: Pulse = field(default_factory=Pulse)
    lives: int = 0
    defects: int = 0
    same: bool = False
    long: tuple[str, float] = ("", 0.0)

    def run(self) -> "Trial":
        """Opens a round, floods the server, and closes the round."""
        self.folder.mkdir()
        server, bundle = Server(self.folder, secure=self.secure), filler_bundle(self.folder / "bundle")
        with ExitStack() as stack:
            stack.callback(server.kill)
            if self.secure:
                server.initialize()
            server.start()
            server.wait()
            quick = {"poll_min": 0.01, "poll_max": 0.02}
            client.create_run(server.control, {**OPTIONS, **quick, "bundle": str(bundle.folder)})
            devices = (enrolled_devices if self.secure else plain_devices)(server, SMALL, HONEST + 2, _once)
            for device in devices:
                stack.callback(device.end)
            tasks = tasks_of(devices)
            first = bundle.path(INITIAL).read_bytes()
            _upload(devices[HONEST], tasks[HONEST], first)
            sender = Sender(devices[HONEST:], tasks[-1].binding, first, random.Random(self.seed))
            memory = Memory(server.pid)
            began = time.monotonic()
            with pulse(server.address, server.ca if self.secure else None) as self.pulse:
                asyncio.run(self._flood(server, sender))
            self.seconds = time.monotonic() - began
            at_most = memory.grown()
            self.growth = (at_most, (memory.now() - memory.before) / 1e6)
            self._long(server, sender)
            for device in devices[:HONEST]:
                device.start()
            for device in devices[:HONEST]:
                assert device.thread is not None
                device.thread.join(120)
            wanted = expected(SMALL, first, [d.device_id for d in devices[: HONEST + 1]], RunOptions(**OPTIONS))
            with closing(open_sqlite(server.state)) as state:
                (run,) = state.runs()
                self.same = [r.adapter for r in state.rounds(run.run_id)] == wanted
            self.lives = server.lives if server.runs else 0
            self.defects = server.log.read_text("utf-8", "replace").count("Traceback")
        return self

    def figures(self, whose: str) -> Iterator[Figure]:
        """What came of it."""
        answered = ", ".join(f"{count:,} {status}" for status, count in self.statuses.most_common())
        bad = sum(self.statuses[status] for status in BAD)
        yield Figure(
            9,
            f"damaged messages of {whose}, in {self.seconds:.0f} s",
            f"{self.count:,}; no INTERNAL, no UNKNOWN",
            answered + (f"; {'; '.join(self.wrong)}" if self.wrong else ""),
            met=bad == 0 and self.statuses.total() >= self.count,
        )
        alive = "none" if self.lives == 1 else "ended"
        yield Figure(
            9,
            "restarts; tracebacks in the log",
            "none; none",
            f"{alive}; {self.defects or 'none'}",
            met=self.lives == 1 and not self.defects,
        )
        yield Figure(
            9,
            "growth of the server's memory",
            f"under {MEMORY:.0f} MB",
            f"{self.growth[0]:.0f} MB at most, {self.growth[1]:.0f} MB at the end",
            met=self.growth[0] < MEMORY,
        )
        yield Figure(
            9,
            f"one message of {LONG >> 20} MiB, of at most {MESSAGE_LIMIT >> 10} KiB that are allowed",
            f"refused, under {MEMORY:.0f} MB",
            f"{self.long[0]}, {self.long[1]:.0f} MB at most: gRPC looks at the length once the message is whole "
            "(grpc/grpc#43012)",
            met=self.long[0] == "RESOURCE_EXHAUSTED" and self.long[1] < MEMORY,
        )
        yield Figure(
            9,
            "answers to health checks meanwhile, 99th percentile",
            f"under {HEALTH:.0f} ms",
            str(self.pulse),
            met=self.pulse.slowest < HEALTH and not self.pulse.failed,
        )
        yield Figure(
            9,
            "the round that was open meanwhile",
            "the bits of an undisturbed run",
            "bit-equal" if self.same else "other bits",
            met=self.same,
        )

    def _long(self, server: Server, sender: Sender) -> None:
        """A message that is far too long, apart from the rest."""
        memory = Memory(server.pid)
        self.long = asyncio.run(_sent_long(server, sender)), memory.grown()

    async def _flood(self, server: Server, sender: Sender) -> None:
        wires = [Wire(server, number, sender.key) for number in range(CONNECTIONS)]
        calls = itertools.islice(sender.calls(secure=self.secure), self.count)
        try:
            await asyncio.gather(*(self._send(wire, calls) for wire in wires for _ in range(PIPELINED)))
            for name, bomb in BOMBS.items():
                self._count(await asyncio.to_thread(bomb, wires[0], sender), name, "a bomb")
            await asyncio.to_thread(no_http, server)
        finally:
            await asyncio.gather(*(wire.close() for wire in wires))

    async def _send(self, wire: Wire, calls: Iterator[Call]) -> None:
        for call in calls:
            self._count(await wire.send(call.path, call.bodies), call.path, call.damage)

    def _count(self, status: str, path: str, damage: str) -> None:
        self.statuses[status] += 1
        if status in BAD:
            self.wrong[f"{status} from {path} by {damage}"] += 1


async def _sent_long(server: Server, sender: Sender) -> str:
    wire = Wire(server, CONNECTIONS, sender.key)
    try:
        return await asyncio.to_thread(too_long, wire, sender)
    finally:
        await wire.close()


def _once(function: Callable[..., object], *arguments: object) -> object:
    return function(*arguments)


def _upload(device: Device, task: pb.Task, base: bytes) -> None:
    data = encode(device.spec, draw(device.spec, decode(device.spec, base), device.number, task.binding.round))
    device.client.upload(header_of(device.device_id, task.binding, data), data)

"""Scripted devices: the real client and protocol, but updates that are drawn instead of trained."""

import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.reliability.hosts import Server
from edge.enrollment import enroll, rotate
from edge.errors import Refused, Stopped
from edge.fleet_client import FleetClient, Patience
from edge.identity import Identities, Identity
from protos.ravan.v1 import fleet_pb2 as pb
from ravan.aggregate import Contribution
from ravan.errors import RavanError
from ravan.layout import Vector
from ravan.spec import AdapterSpec
from ravan.update import Update, decode, encode
from server import client
from server.settings import RunOptions

QUICK = Patience(0.02, 0.1)
TOKEN_SECONDS = 3600.0
CAPABILITIES = pb.Capabilities(cores=1, memory_bytes=1 << 30, machine="scripted", head_budget=1.0)


def draw(spec: AdapterSpec, base: Update, number: int, round_number: int) -> Update:
    """The update of device ``number``: the round's adapter, changed by normal values that every run draws alike."""
    generator = np.random.default_rng([number, round_number])
    sH = base.sH + 0.01 * generator.standard_normal(base.sH.shape).astype(np.float32)
    saved = base.saved + 0.01 * generator.standard_normal(base.saved.shape).astype(np.float32)
    return Update(base.heads, sH.astype(np.float32), saved.astype(np.float32))


class Reference:
    """The adapters of a run, computed without a server from the updates that count."""

    def __init__(self, spec: AdapterSpec, first: bytes, options: RunOptions) -> None:
        self.spec = spec
        self.adapter = decode(spec, first)
        self._memory: tuple[Vector, ...] = ()
        self._options = options

    def publish(self, updates: Mapping[str, Update]) -> str:
        """Takes a round's updates by device; returns the sha256 of the adapter that follows."""
        parts = [Contribution(device_id, partial(_given, update)) for device_id, update in updates.items()]
        combined = self._options.rule()(self.spec, self.adapter, parts)
        optimizer = self._options.optimizer_of_server()
        self.adapter, self._memory = optimizer.step(self.spec, self.adapter, combined, self._memory)
        return hashlib.sha256(encode(self.spec, self.adapter)).hexdigest()


def _given(update: Update) -> Update:
    return update


def expected(spec: AdapterSpec, first: bytes, device_ids: Sequence[str], options: RunOptions) -> list[str]:
    """sha256 of every round's adapter when each device's update of ``draw`` counts once in every round."""
    reference = Reference(spec, first, options)
    return [
        reference.publish({d: draw(spec, reference.adapter, i, number) for i, d in enumerate(device_ids)})
        for number in range(1, options.rounds + 1)
    ]


@dataclass
class Device:
    """One device on a thread of its own.

    Attributes:
        number: what its updates are drawn from.
        receipts: by round, the receipt and the sha256 of the update it is for.
        refused: codes of calls that were refused.
    """

    number: int
    spec: AdapterSpec
    client: FleetClient
    stop: threading.Event
    receipts: dict[int, tuple[str, str]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    thread: threading.Thread | None = None

    @property
    def device_id(self) -> str:
        """As the server knows it."""
        return self.client.device_id

    def start(self) -> None:
        """Takes part until the run has finished, or until it is stopped."""
        self.thread = threading.Thread(target=self._run, name=f"device {self.number}")
        self.thread.start()

    @property
    def is_done(self) -> bool:
        """Whether it has heard that the run has finished."""
        return self.thread is not None and not self.thread.is_alive()

    def end(self) -> None:
        """Ends the thread and its connection."""
        self.stop.set()
        self.client.close()
        if self.thread is not None:
            self.thread.join(60)

    def _run(self) -> None:
        while not self.stop.is_set():
            try:
                answer = self.client.check_in(f"device {self.number}", CAPABILITIES)
                if answer.HasField("task"):
                    self._take_part(answer.task)
                elif answer.wait.reason == pb.WAIT_REASON_RUN_FINISHED:
                    return
                else:
                    self.stop.wait(0.02)
            except Stopped:
                return
            except Refused as error:
                self.refused.append(error.code)
                self.stop.wait(0.02)

    def _take_part(self, task: pb.Task) -> None:
        binding = task.binding
        base = self.client.fetch_adapter(binding, task.adapter_size)
        if hashlib.sha256(base).hexdigest() != binding.base_adapter:
            raise RavanError(f"Round {binding.round} begins with another adapter than it says.")
        data = encode(self.spec, draw(self.spec, decode(self.spec, base), self.number, binding.round))
        header = header_of(self.device_id, binding, data)
        self.receipts[binding.round] = self.client.upload(header, data), header.sha256


def header_of(device_id: str, binding: pb.Binding, data: bytes) -> pb.UploadHeader:
    """What an upload of these bytes begins with."""
    sha256 = hashlib.sha256(data).hexdigest()
    return pb.UploadHeader(device_id=device_id, binding=binding, sha256=sha256, size=len(data))


def tasks_of(devices: Sequence[Device]) -> list[pb.Task]:
    """Lets devices check in until each has a part in the open round; their tasks, in the same order.

    They do so in turn, so that no answer may wait for the next one's check-in.
    """
    tasks: dict[str, pb.Task] = {}
    while len(tasks) < len(devices):
        for device in devices:
            answer = device.client.check_in(f"device {device.number}", CAPABILITIES, hold=0)
            if answer.HasField("task"):
                tasks[device.device_id] = answer.task
        time.sleep(0.02)
    return [tasks[device.device_id] for device in devices]


def plain_devices(server: Server, spec: AdapterSpec, count: int, _: object = None) -> list[Device]:
    """Devices of a server that knows no keys."""
    stops = [threading.Event() for _ in range(count)]
    return [
        Device(number, spec, FleetClient(server.address, f"{number + 1:032x}", stop, patience=QUICK), stop)
        for number, stop in enumerate(stops)
    ]


def enrolled_devices(server: Server, spec: AdapterSpec, count: int, persist: Callable[..., object]) -> list[Device]:
    """Devices that enroll with a token each, and change their key at once.

    ``persist`` calls a function until the server answers.
    """
    devices = []
    for number in range(count):
        stop, identities = threading.Event(), Identities(_folder(server.folder / f"device-{number}"))
        (token,) = persist(client.create_tokens, server.control, 1, TOKEN_SECONDS).tokens  # type: ignore[attr-defined]
        identity = persist(enroll, identities, "", server.address, server.ca.read_text(), token)
        assert isinstance(identity, Identity)
        caller = FleetClient(server.address, identity.device_id, stop, identity, QUICK)
        persist(rotate, identities, caller)
        devices.append(Device(number, spec, caller, stop))
    return devices


def _folder(path: Path) -> Path:
    path.mkdir(mode=0o700, exist_ok=True)
    return path

"""Several servers on one database, and scripted devices that call any of them."""

import hashlib
import itertools
import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import grpc
import numpy as np

from protos.ravan.v1 import fleet_pb2 as pb
from protos.ravan.v1 import fleet_pb2_grpc as rpc
from ravan.rpc.transfer import CHANNEL_OPTIONS, chunks
from ravan.spec import AdapterSpec
from ravan.update import Update, decode, encode
from server.control_address import ControlAddress, control_address
from tests.e2e.processes import Fleet, free_port, until

T = TypeVar("T")
AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)
LEASE = 1.0  # seconds


@dataclass
class Replicas:
    """Servers on one database, each with a folder and a port of its own.

    Attributes:
        processes: theirs, by name.
        database: URL; empty for one server with a folder.
        ports: by name.
    """

    processes: Fleet
    database: str
    ports: dict[str, int] = field(default_factory=dict)

    def serve(self, *names: str) -> None:
        """Starts servers, or starts them again; returns once they answer."""
        before = {name: self.log(name).count('"serving"') for name in names}
        for name in names:
            port = self.ports.setdefault(name, free_port())
            where = ["--state", self.database, "--folder", name, "--lease", str(LEASE)]
            command = [sys.executable, "-m", "server.cli", "serve", "--insecure", "--listen", f"127.0.0.1:{port}"]
            self.processes.start(name, [*command, *(where if self.database else ["--state", name])])
        for name in names:
            until(lambda n=name: self.log(n).count('"serving"') > before[n], name)  # type: ignore[misc]

    def control(self, name: str) -> ControlAddress:
        """Where an operator finds a server."""
        return control_address(self.processes.folder / name, "")

    def log(self, name: str) -> str:
        """What a server has said."""
        return self.processes.log(name)

    def alive(self) -> list[str]:
        """Servers that run."""
        return [name for name in self.ports if self.processes.processes[name].poll() is None]

    def leader(self) -> str:
        """The server of the newest term, once it is one that runs."""
        found: list[str] = []

        def newest() -> bool:
            terms = [
                (int(t), name) for name in self.ports for t in re.findall(r'"term": (\d+), .*"leading"', self.log(name))
            ]
            found[:] = [name for _, name in sorted(terms)[-1:] if name in self.alive()]
            return bool(found)

        until(newest, "a server to lead")
        return found[0]

    def kill(self, name: str) -> None:
        """kill -9."""
        self.processes.kill(name)


@dataclass
class Scripted:
    """Devices whose updates follow from their id and the base alone; each call goes to any server that runs.

    Attributes:
        servers: whom they call.
        spec: of the run's adapter.
        ids: of the devices.
        seed: of the order in which servers are called.
    """

    servers: Replicas
    spec: AdapterSpec
    ids: tuple[str, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        self._choice = random.Random(self.seed)
        self._channels = {
            name: grpc.insecure_channel(f"127.0.0.1:{port}", options=CHANNEL_OPTIONS)
            for name, port in self.servers.ports.items()
        }

    def close(self) -> None:
        """Closes the connections."""
        for channel in self._channels.values():
            channel.close()

    def call(self, method: Callable[[rpc.FleetStub], T]) -> T:
        """Calls servers at random until one answers."""
        for _ in range(200):
            channel = self._channels[self._choice.choice(list(self._channels))]
            try:
                return method(rpc.FleetStub(channel))
            except grpc.RpcError as error:
                if error.code() not in AWAY:
                    raise
            time.sleep(0.02)
        raise AssertionError("no server answers")

    def tasks(self) -> dict[str, pb.Task]:
        """Every device's task in the next round."""
        found: dict[str, pb.Task] = {}
        for device in itertools.cycle(self.ids):
            if len(found) == len(self.ids):
                return found
            answer = self.call(lambda stub, d=device: stub.CheckIn(_check_in(d), timeout=5))  # type: ignore[misc]
            if answer.HasField("task"):
                found[device] = answer.task
            else:
                time.sleep(0.01)
        raise AssertionError

    def update(self, device: str, task: pb.Task) -> bytes:
        """What a device makes of its task's adapter: a change that is always the same, to the bit."""
        request = pb.FetchAdapterRequest(device_id=device, binding=task.binding)
        data = self.call(lambda stub: b"".join(m.data for m in stub.FetchAdapter(request, timeout=5)))
        assert hashlib.sha256(data).hexdigest() == task.binding.base_adapter
        base = decode(self.spec, data)
        generator = np.random.default_rng([int(device[-4:], 16), task.binding.round])
        change = generator.normal(size=base.sH.shape).astype(np.float32) * np.float32(0.01)
        return encode(self.spec, Update(base.heads, base.sH + change, base.saved * np.float32(1.01)))

    def upload(self, device: str, task: pb.Task, data: bytes) -> str:
        """Uploads until a server gives the receipt."""
        digest = hashlib.sha256(data).hexdigest()
        header = pb.UploadHeader(device_id=device, binding=task.binding, sha256=digest, size=len(data))

        def messages() -> Iterator[pb.UploadUpdateRequest]:
            yield pb.UploadUpdateRequest(header=header)
            for piece in chunks(data):
                yield pb.UploadUpdateRequest(data=piece)

        return self.call(lambda stub: stub.UploadUpdate(messages(), timeout=10).receipt)


def _check_in(device: str) -> pb.CheckInRequest:
    return pb.CheckInRequest(device_id=device, name=device[-2:], capabilities=pb.Capabilities(cores=1, head_budget=1))

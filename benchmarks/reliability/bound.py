"""Promise 3: whatever belongs to another round, base or device is refused, with a code and a counter of its own.

Every call that is bound to a round, over the wire, with one thing wrong at a time. The counters are read as the
operator reads them.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc

from benchmarks.reliability.bundle import SMALL
from benchmarks.reliability.devices import CAPABILITIES, draw, header_of
from benchmarks.reliability.figures import Figure
from benchmarks.reliability.hosts import Server
from benchmarks.reliability.once import hosting, until_finished
from protos.ravan.v1 import fleet_pb2 as pb
from protos.ravan.v1 import fleet_pb2_grpc as rpc
from ravan.bundle import INITIAL
from ravan.rpc.refusal import code_of, status_of
from ravan.update import decode, encode
from server import client

A, B, C = (f"{number:032x}" for number in (1, 2, 3))
TIMES = 10
"""That each wrong call is made, by each method."""


@dataclass(frozen=True)
class Wrong:
    """One thing that is wrong, and how it must be refused."""

    what: str
    code: str
    status: str
    binding: pb.Binding
    device: str = A


def figures(folder: Path) -> Iterator[Figure]:
    """What is wrong in the first round, in the second, and after the last."""
    options = {"rounds": 2, "clients_per_round": 1, "over_select": 1, "min_devices": 2, "keep_updates": 9}
    with hosting(folder / "bound", SMALL, options) as (server, bundle):
        base = decode(SMALL, (bundle.folder / INITIAL).read_bytes())
        data = [encode(SMALL, draw(SMALL, base, number, 1)) for number in (0, 1)]
        with grpc.insecure_channel(server.address) as channel:
            caller = Caller(server, rpc.FleetStub(channel), data[1])
            first = caller.tasks(1)
            yield from map(caller.try_out, in_the_first_round(first[A]))
            caller.upload(A, first[A], data[0])
            second = caller.tasks(2)
            yield caller.try_out(Wrong("an earlier round", "stale-round", "FAILED_PRECONDITION", first[B], B))
            caller.upload(A, second[A], data[0])
            until_finished(server)
            yield caller.try_out(Wrong("a round that is closed", "round-closed", "FAILED_PRECONDITION", second[B], B))
            stored = len([path for path in (server.state / "updates").rglob("*") if path.is_file()])
    yield Figure(3, "blobs stored of all of them", "none", f"{stored - 1}", met=stored == 1)


def in_the_first_round(sound: pb.Binding) -> Iterator[Wrong]:
    """A device's binding with one field changed, and the binding as it is, used by another device."""
    changes: list[tuple[str, str, str, Callable[[pb.Binding], None]]] = [
        ("a round that is not open yet", "future-round", "FAILED_PRECONDITION", _set("round", 2)),
        ("another run", "not-found", "NOT_FOUND", _set("run_id", "0" * 12)),
        ("another base adapter", "wrong-base", "FAILED_PRECONDITION", _set("base_adapter", "0" * 64)),
        ("another adapter spec", "wrong-spec", "FAILED_PRECONDITION", _set("adapter_spec", "0" * 64)),
        ("another bundle", "wrong-bundle", "FAILED_PRECONDITION", _set("bundle_id", "0" * 64)),
    ]
    for what, code, status, change in changes:
        binding = pb.Binding()
        binding.CopyFrom(sound)
        change(binding)
        yield Wrong(what, code, status, binding)
    yield Wrong("a device that was not selected", "not-selected", "PERMISSION_DENIED", sound, C)


def _set(name: str, value: object) -> Callable[[pb.Binding], None]:
    return lambda binding: setattr(binding, name, value)


@dataclass(frozen=True)
class Caller:
    """Makes calls as any device."""

    server: Server
    stub: rpc.FleetStub
    data: bytes

    def tasks(self, number: int) -> dict[str, pb.Binding]:
        """The bindings of both devices in a round."""
        found: dict[str, pb.Binding] = {}
        while len(found) < 2:
            for device in (A, B):
                request = pb.CheckInRequest(device_id=device, name=device[-1], capabilities=CAPABILITIES)
                answer = self.stub.CheckIn(request, timeout=10)
                if answer.HasField("task") and answer.task.binding.round == number:
                    found[device] = answer.task.binding
            threading.Event().wait(0.02)
        return found

    def upload(self, device: str, binding: pb.Binding, data: bytes, seconds: float = 30) -> str:
        """An update's receipt."""
        messages = [pb.UploadUpdateRequest(header=header_of(device, binding, data)), pb.UploadUpdateRequest(data=data)]
        return str(self.stub.UploadUpdate(iter(messages), timeout=seconds).receipt)

    def try_out(self, wrong: Wrong) -> Figure:
        """Every bound call with one thing wrong."""
        before = client.devices(self.server.control).refused[wrong.code]
        calls = self._calls(wrong.device, wrong.binding)
        seen = [refusal(call) for call in calls for _ in range(TIMES)]
        counted = client.devices(self.server.control).refused[wrong.code] - before
        right = seen.count((wrong.code, wrong.status))
        return Figure(
            3,
            f"{len(calls)} methods called for {wrong.what}",
            f"{wrong.code} ({wrong.status}), each counted",
            f"{right} of {len(seen)} refused so, {counted} counted",
            met=right == len(seen) == counted,
        )

    def _calls(self, device: str, binding: pb.Binding) -> list[Callable[[], object]]:
        fetch = pb.FetchAdapterRequest(device_id=device, binding=binding)
        ask = pb.AskUploadRequest(device_id=device, binding=binding, sha256=hashlib.sha256(self.data).hexdigest())
        report = pb.ReportFailureRequest(device_id=device, binding=binding, code="none", reason="None.")
        return [
            lambda: list(self.stub.FetchAdapter(fetch, timeout=10)),
            lambda: self.stub.AskUpload(ask, timeout=10),
            lambda: self.upload(device, binding, self.data),
            lambda: self.stub.ReportFailure(report, timeout=10),
        ]


def refusal(call: Callable[[], object]) -> tuple[str, str]:
    """Code and status of a call that is refused, or empty texts."""
    try:
        call()
    except grpc.RpcError as error:
        return code_of(error), status_of(error).name
    return "", ""

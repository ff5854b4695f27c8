"""What a device that means harm sends: calls of every method, damaged; uploads whose streams and updates are spoilt."""

import hashlib
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from benchmarks.reliability.devices import Device, draw
from benchmarks.reliability.mutations import absurd, filled, mutated
from protos.ravan.v1 import control_pb2
from protos.ravan.v1 import fleet_pb2 as pb
from ravan.rpc.keys import public_hex
from ravan.update import decode, encode
from tests.attacks.calls import Rpc, every_rpc

HEALTH_RPCS = tuple(
    Rpc(f"/grpc.health.v1.Health/{name}", health_pb2.HealthCheckRequest, is_streaming=False)
    for name in ("Check", "Watch")
)


@dataclass(frozen=True)
class Call:
    """One call: its method, what is wrong with it, and its messages."""

    path: str
    damage: str
    bodies: Sequence[bytes]


class Sender:
    """Makes up calls by two devices: the first one's update is counted, the second one has an open part."""

    def __init__(self, devices: Sequence[Device], binding: pb.Binding, base: bytes, generator: random.Random) -> None:
        self._generator = generator
        self._ids = [device.device_id for device in devices]
        self.binding = binding
        identity = devices[-1].client.identity
        self.key = identity.key if identity else None
        spec = devices[-1].spec
        self.update = encode(spec, draw(spec, decode(spec, base), 99, 1))

    def calls(self, *, secure: bool) -> Iterator[Call]:
        """Without end."""
        rpcs = [rpc for rpc in every_rpc() if _is_served(rpc, secure=secure)]
        rpcs += () if secure else HEALTH_RPCS
        while True:
            for rpc in rpcs:
                yield from self._of(rpc)

    @property
    def known(self) -> dict[str, object]:
        """Values by which a message would be taken."""
        device = self._ids[-1] if self.key or self._generator.random() < 0.8 else self._ids[0]
        binding = {name.name: value for name, value in self.binding.ListFields()}
        sha256 = hashlib.sha256(self.update).hexdigest()
        mine = {"public_key": public_hex(self.key)} if self.key else {}
        return {**binding, **mine, "device_id": device, "sha256": sha256, "size": len(self.update), "offset": 0}

    def header(self, data: bytes, **fields: object) -> bytes:
        """The first message of an upload."""
        known = {
            **self.known,
            "sha256": hashlib.sha256(data).hexdigest(),
            "size": len(data),
            "device_id": self._ids[-1],
            **fields,
        }
        message: Any = pb.UploadUpdateRequest()
        message.header.CopyFrom(filled(pb.UploadHeader, known, self._generator))
        return bytes(message.SerializeToString())

    def _of(self, rpc: Rpc) -> Iterator[Call]:
        """A damaged call, and for uploads some more."""
        if self._generator.random() < 0.3:
            damage, data = "absurd values", absurd(rpc.request, self.known, self._generator).SerializeToString()
        else:
            damage, data = mutated(
                filled(rpc.request, self.known, self._generator).SerializeToString(), self._generator
            )
        if not _is_order(rpc, data):
            yield Call(rpc.path, damage, [data])
        if rpc.is_streaming:
            for damage, bodies in (self._stream(), self._body()):
                yield Call(rpc.path, damage, bodies)

    def _stream(self) -> tuple[str, Sequence[bytes]]:
        """An upload whose messages are in the wrong order, number or size."""
        header, data = self.header(self.update), piece(self.update[:1000])
        damage, spoilt = mutated(data, self._generator)
        streams = {
            "no message": [],
            "no header": [data, header],
            "two headers": [header, header],
            "empty pieces": [header, *[piece(b"")] * 50],
            "more than announced": [header, *[data] * 10],
            "less than announced": [header, data],
            f"data with {damage}": [header, spoilt],
            "an absurd size": [self.header(self.update, size=2**64 - 1), data],
            "an absurd offset": [self.header(self.update, offset=2**64 - 1), data],
            "an offset before nothing": [self.header(self.update, offset=len(self.update)), data],
        }
        name = self._generator.choice(tuple(streams))
        if not streams[name] and self.key:
            name = "no header"  # there would be nothing to sign
        return name, streams[name]

    def _body(self) -> tuple[str, Sequence[bytes]]:
        """An upload whose bytes arrive whole, and are no update."""
        name = self._generator.choice(tuple(SPOILT))
        data = SPOILT[name](self.update, self._generator)[: len(self.update)]
        return name, [self.header(data), piece(data)]


def _is_served(rpc: Rpc, *, secure: bool) -> bool:
    """Enrollment is there with keys alone; the operator's socket is the same with keys or without."""
    return not rpc.is_operators if secure else "Enrollment" not in rpc.path


def _is_order(rpc: Rpc, data: bytes) -> bool:
    """Whether a message, by chance, is a sound order that ends the run, the device's part, or its key."""
    try:
        message: Any = rpc.request.FromString(data)
    except DecodeError:
        return False
    if isinstance(message, control_pb2.SetRunStateRequest):
        return message.state in (control_pb2.RUN_STATE_PAUSED, control_pb2.RUN_STATE_STOPPED)
    return rpc.path.endswith(("/RotateKey", "/Leave"))


def is_operators(path: str) -> bool:
    """Whether a method is called over the operator's socket."""
    return path.startswith("/ravan.v1.Control/")


def piece(data: bytes) -> bytes:
    """A message of an upload that is not its first."""
    return pb.UploadUpdateRequest(data=data).SerializeToString()


def _set_header(offset: int, form: str) -> Callable[[bytes, random.Random], bytes]:
    """A field of an update's header with a value that makes no sense."""
    most = 256 ** struct.calcsize(form) - 1

    def spoil(data: bytes, generator: random.Random) -> bytes:
        spoilt = bytearray(data)
        struct.pack_into(form, spoilt, offset, generator.choice((0, 1, most, most // 2, generator.randrange(most))))
        return bytes(spoilt)

    return spoil


def _values(value: float) -> Callable[[bytes, random.Random], bytes]:
    return lambda data, generator: data[:-400] + np.full(100, value, "<f4").tobytes()


SPOILT: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "another version": lambda data, generator: data[:4] + b"\7\0" + data[6:],
    "an absurd value type": lambda data, generator: data[:6] + b"\xff\xff" + data[8:],
    "another spec": lambda data, generator: data[:8] + generator.randbytes(32) + data[40:],
    "an absurd rank": _set_header(40, "<I"),
    "an absurd number of heads": _set_header(44, "<I"),
    "an absurd number of saved values": _set_header(48, "<I"),
    "an absurd head": lambda data, generator: data[:52] + b"\xff\xff\xff\xff" + data[56:],
    "NaN": _values(float("nan")),
    "infinity": _values(float("inf")),
    "cut short": lambda data, generator: data[: generator.randrange(len(data))],
    "noise": lambda data, generator: generator.randbytes(len(data)),
    "nothing": lambda data, generator: b"",
}

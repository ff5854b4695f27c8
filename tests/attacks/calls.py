"""Every RPC that the definitions know, and calls made byte by byte."""

import importlib
import pkgutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

import protos.ravan.v1
from ravan.rpc.transfer import CODE_KEY
from tests.server.secured import Known

ENROLL, ROTATE, LEAVE = (f"/ravan.v1.Enrollment/{name}" for name in ("Enroll", "RotateKey", "Leave"))
OPERATOR = "ravan.v1.Control"


@dataclass(frozen=True)
class Rpc:
    """One method of one service."""

    path: str
    request: type[Message]
    is_streaming: bool

    @property
    def is_operators(self) -> bool:
        return self.path.startswith(f"/{OPERATOR}/")

    def __str__(self) -> str:
        return self.path.rpartition(".")[2]

    def body(self, device: Known, public_key: str, token: str = "") -> bytes:
        """A first message by which a device speaks for itself."""
        message: Any = self.request()
        fields = message.DESCRIPTOR.fields_by_name
        if "header" in fields:
            message.header.device_id = device.device_id
        for name, value in (("device_id", device.device_id), ("public_key", public_key), ("token", token)):
            if name in fields and not self.is_operators:
                setattr(message, name, value)
        return bytes(message.SerializeToString())


def every_rpc() -> list[Rpc]:
    """From the descriptors of every definition in protos, so that a new one can't be left out."""
    found = []
    for module in pkgutil.iter_modules(protos.ravan.v1.__path__):
        if module.name.endswith("_pb2"):
            descriptor = importlib.import_module(f"protos.ravan.v1.{module.name}").DESCRIPTOR
            for service in descriptor.services_by_name.values():
                for method in service.methods:
                    request = GetMessageClass(method.input_type)
                    found.append(Rpc(f"/{service.full_name}/{method.name}", request, method.client_streaming))
    return found


@dataclass(frozen=True)
class Answer:
    """What came of a call: the server's code is empty where it did not refuse itself."""

    status: str
    code: str
    sentence: str


def call(channel: grpc.Channel, path: str, metadata: Sequence[tuple[str, str]], bodies: Iterable[bytes]) -> Answer:
    """Makes a call of any kind from nothing but bytes."""
    method: Any = channel.stream_stream(path)
    try:
        list(method(iter(bodies), metadata=metadata, timeout=20))
    except grpc.RpcError as error:
        made: Any = error
        code = dict(made.trailing_metadata() or ()).get(CODE_KEY, "")
        return Answer(made.code().name, str(code), made.details() or "")
    return Answer("OK", "", "")

"""A real server with TLS and enrolled devices, on a thread of its own, for callers that are not asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from protos.ravan.v1 import enrollment_pb2 as pb
from protos.ravan.v1 import enrollment_pb2_grpc as rpc
from ravan.rpc.keys import PrivateKey, new_key, public_hex
from ravan.rpc.signing import Signing, signed_channel
from server import client
from server.certificates import initialize
from server.control_address import ControlAddress
from server.serving import Serving, serving
from server.settings import ServeSettings
from server.tls import Tls


@dataclass(frozen=True)
class Known:
    """A device that is enrolled."""

    device_id: str
    key: PrivateKey


@dataclass(frozen=True)
class Secured:
    """A server that lets nobody in without a key, for operators too."""

    serving: Serving
    tls: Tls

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.serving.port}"

    @property
    def control(self) -> ControlAddress:
        return ControlAddress(f"127.0.0.1:{self.serving.control_port}", self.tls)

    @property
    def ca(self) -> str:
        return self.tls.ca.read_text()

    def channel(self, address: str) -> grpc.Channel:
        """A channel that trusts the server, and signs nothing."""
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(self.ca.encode()))

    def token(self, seconds: float = 60) -> str:
        """A fresh token."""
        return client.create_tokens(self.control, 1, seconds).tokens[0]

    def enroll(self) -> Known:
        """A new device."""
        key = new_key()
        request = pb.EnrollRequest(token=self.token(), public_key=public_hex(key), name="test")
        with signed_channel(self.address, self.ca, Signing(key), []) as channel:
            return Known(rpc.EnrollmentStub(channel).Enroll(request, timeout=30).device_id, key)


@contextmanager
def secured(folder: Path, port: int = 0, database: str = "", **settings: object) -> Iterator[Secured]:
    """A server on free ports of loopback; its certificate is made at the first time."""
    tls = Tls.of(folder)
    if not tls.ca.exists():
        initialize(tls, ["localhost"], renew=False)
    where: dict[str, object] = {"state": database, "folder": folder} if database else {"state": folder}
    listen = {"listen": f"127.0.0.1:{port}", "control": "127.0.0.1:0"}
    chosen = ServeSettings(**where, **listen, **settings)  # type: ignore[arg-type]
    ready, stop, running = threading.Event(), asyncio.Event(), []
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with serving(chosen) as started:
            running.append(started)
            ready.set()
            await stop.wait()

    def work() -> None:
        try:
            loop.run_until_complete(serve())
        finally:
            ready.set()
            loop.close()

    thread = threading.Thread(target=work)
    thread.start()
    ready.wait(30)
    try:
        yield Secured(running[0], tls)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)

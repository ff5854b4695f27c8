"""Calls made byte by byte over connections of their own, and bombs: what is small to send and large to take."""

import asyncio
import itertools
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

import grpc

from benchmarks.reliability.flood import Sender, is_operators, piece
from benchmarks.reliability.hosts import Server
from ravan.rpc.keys import PrivateKey
from ravan.rpc.refusal import status_of
from ravan.rpc.signing import Metadata, signed

BOMB = 1 << 26  # bytes
LONG = 1 << 28
ENDLESS = 20_000
"""Messages of a stream; a server that takes all of them would take any number."""
UPLOAD = "/ravan.v1.Fleet/UploadUpdate"


class Wire:
    """One connection for devices and one for the operator; calls on it are signed if there is a key."""

    def __init__(self, server: Server, number: int, key: PrivateKey | None) -> None:
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("ravan.connection", number),
            ("grpc.max_send_message_length", -1),
        ]
        self._key = key
        self._devices = _channel(grpc.aio, server, key, options)
        self._operators = grpc.aio.insecure_channel(server.control.target, options)
        self._patient: tuple[Any, ...] = (
            _channel(grpc, server, key, options),
            grpc.insecure_channel(server.control.target, options),
        )

    async def close(self) -> None:
        """Ends all."""
        await self._devices.close()
        await self._operators.close()
        for channel in self._patient:
            channel.close()

    async def send(self, path: str, bodies: Sequence[bytes]) -> str:
        """The status of a call with any number of messages; a stream of answers is cut after the first."""
        channel: Any = self._operators if is_operators(path) else self._devices
        made = channel.stream_stream(path)(_each(bodies), timeout=60, metadata=self._signed(path, bodies))
        try:
            async for _ in made:
                made.cancel()
                return "OK"
            return str((await made.code()).name)
        except grpc.aio.AioRpcError as error:
            if (error.details() or "").startswith(
                "Internal error from Core"
            ):  # the client's own: it was refused before all was sent
                return await asyncio.to_thread(self.send_all, path, bodies)
            return str(error.code().name)

    def send_all(
        self,
        path: str,
        bodies: Sequence[bytes],
        then: Iterable[bytes] = (),
        compression: grpc.Compression | None = None,
    ) -> str:
        """The status of a call, by a client that knows what the server said when it broke a call off."""
        method: Any = self._patient[is_operators(path)].stream_stream(path)
        metadata = self._signed(path, bodies)
        messages = itertools.chain(bodies, then)
        try:
            next(method(messages, timeout=60, metadata=metadata, compression=compression), None)
        except grpc.RpcError as error:
            return status_of(error).name
        return "OK"

    def _signed(self, path: str, bodies: Sequence[bytes]) -> Metadata:
        return signed(self._key, path, bodies[0], time.time()) if self._key and bodies else ()


def _channel(kind: Any, server: Server, key: PrivateKey | None, options: Sequence[tuple[str, int]]) -> Any:
    if key is None:
        return kind.insecure_channel(server.address, options)
    return kind.secure_channel(server.address, grpc.ssl_channel_credentials(server.ca.read_bytes()), options)


async def _each(bodies: Sequence[bytes]) -> AsyncIterator[bytes]:
    for data in bodies:
        yield data


def _gzip(wire: Wire, sender: Sender) -> str:
    bodies = [sender.header(sender.update), piece(bytes(BOMB))]
    return wire.send_all(UPLOAD, bodies, compression=grpc.Compression.Gzip)


def too_long(wire: Wire, sender: Sender) -> str:
    """A message that is far over the limit."""
    return wire.send_all(UPLOAD, [sender.header(sender.update), piece(bytes(LONG))])


def _without_end(wire: Wire, sender: Sender) -> str:
    return _on_and_on(wire, sender, piece(bytes(1 << 16)))


def _of_nothing(wire: Wire, sender: Sender) -> str:
    return _on_and_on(wire, sender, piece(b""))


def _on_and_on(wire: Wire, sender: Sender, data: bytes) -> str:
    messages = iter([data] * ENDLESS)
    status = wire.send_all(UPLOAD, [sender.header(sender.update)], messages)
    return status if next(messages, None) is not None else "taken without end"


BOMBS: dict[str, Callable[[Wire, Sender], str]] = {
    "64 MiB of zeros as 64 KiB of gzip": _gzip,
    "an upload without end": _without_end,
    "an upload of nothing, without end": _of_nothing,
}


def no_http(server: Server) -> None:
    """Connections with noise on them."""
    generator = random.Random(0)
    for _ in range(100):
        with socket.create_connection(("127.0.0.1", server.port), 5) as line:
            line.sendall(generator.choice((b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")) + generator.randbytes(2000))

"""A tap on the line between a device and its server: every byte, and what it says by the protocol's definitions."""

import contextlib
import os
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hpack
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from hyperframe.frame import DataFrame, Frame, HeadersFrame

from tests.attacks.calls import every_rpc
from tests.e2e.processes import free_port

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WITHOUT_CONTENT = {"SettingsFrame", "WindowUpdateFrame", "PingFrame", "RstStreamFrame", "GoAwayFrame"}
"""Frames of the line itself: numbers by which both ends steer it."""
REQUESTS = {rpc.path: rpc.request for rpc in every_rpc()}


@dataclass
class Call:
    """What a device sent in one call."""

    headers: list[tuple[str, str]]
    body: bytearray = field(default_factory=bytearray)

    @property
    def path(self) -> str:
        return dict(self.headers)[":path"]

    def messages(self) -> Iterator[tuple[bytes, Any]]:
        """Bytes and meaning of each; compressed or unfinished ones are no messages of ours."""
        rest = bytes(self.body)
        while rest:
            size = int.from_bytes(rest[1:5], "big")
            data, rest = rest[5 : 5 + size], rest[5 + size :] if rest[0] == 0 else b""
            assert len(data) == size, f"{self.path} sent something else than whole, plain messages"
            yield data, REQUESTS[self.path].FromString(data)


class Wiretap:
    """A proxy on a free port of loopback; keeps what every connection sent."""

    def __init__(self, server_port: int) -> None:
        self.port, self._server_port = free_port(), server_port
        self.sent: list[bytearray] = []
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def calls(self) -> list[Call]:
        """Of all connections; fails on a byte that is part of none and does not steer the line."""
        return [call for sent in self.sent for call in read_calls(bytes(sent))]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                device, _ = self._listener.accept()
                server, sent = socket.create_connection(("127.0.0.1", self._server_port)), bytearray()
                self.sent.append(sent)
                threading.Thread(target=pump, args=(device, server, sent), daemon=True).start()
                threading.Thread(target=pump, args=(server, device, bytearray()), daemon=True).start()


def pump(source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
    """Until the source ends."""
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            kept += data
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def read_calls(sent: bytes) -> list[Call]:
    """The calls of one connection, from its bytes alone."""
    assert sent.startswith(PREFACE)
    view, position = memoryview(sent), len(PREFACE)
    decoder, calls = hpack.Decoder(), dict[int, Call]()
    decoder.max_allowed_table_size = 1 << 16
    while position + 9 <= len(sent):
        frame, size = Frame.parse_frame_header(view[position : position + 9])
        if position + 9 + size > len(sent):
            break  # cut off by the end of the recording
        frame.parse_body(view[position + 9 : position + 9 + size])
        position += 9 + size
        if isinstance(frame, HeadersFrame):
            assert "END_HEADERS" in frame.flags
            assert not frame.pad_length
            calls[frame.stream_id] = Call([(str(n), str(v)) for n, v in decoder.decode(frame.data)])
        elif isinstance(frame, DataFrame):
            assert not frame.pad_length
            calls[frame.stream_id].body += frame.data
        else:
            assert type(frame).__name__ in WITHOUT_CONTENT, f"{frame} is no part of a call"
            if type(frame).__name__ == "GoAwayFrame":
                assert not getattr(frame, "additional_data", b"").strip(b"client is closing\x00")
    return list(calls.values())


def undeclared(data: bytes, message: Message) -> str:
    """What a message holds beside its declared fields; empty if nothing."""
    if message.SerializeToString(deterministic=True) != data:
        return f"{message.DESCRIPTOR.name} has other bytes than its fields make"
    return next((f"{name} has unknown fields" for name in _with_unknown(message)), "")


def strings(message: Message) -> Iterator[tuple[str, str]]:
    """Every text in a message with the name of its field."""
    for descriptor, value in message.ListFields():
        values = list(value) if descriptor.is_repeated else [value]
        for each in values:
            if isinstance(each, Message):
                yield from strings(each)
            elif isinstance(each, str):
                yield descriptor.full_name, each


def _with_unknown(message: Message) -> Iterator[str]:
    if len(UnknownFieldSet(message)):
        yield str(message.DESCRIPTOR.name)
    for descriptor, value in message.ListFields():
        for each in list(value) if descriptor.is_repeated else [value]:
            if isinstance(each, Message):
                yield from _with_unknown(each)


def remote_ends(pid: int) -> set[str]:
    """Where a process is connected to, or sends to, over any network right now, as host:port."""
    inodes = set()
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                inodes |= set(re.findall(r"socket:\[(\d+)\]", os.readlink(descriptor)))
    found = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/net/{table}").read_text("ascii").splitlines()[1:]:
                fields = line.split()
                host, port = fields[2].split(":")
                if fields[9] in inodes and int(host, 16):
                    found.add(f"{_host(host)}:{int(port, 16)}")
    return found


def _host(text: str) -> str:
    if len(text) == 8:
        return socket.inet_ntoa(bytes.fromhex(text)[::-1])
    whole = bytes.fromhex(text)
    address = b"".join(whole[i : i + 4][::-1] for i in range(0, 16, 4))
    plain = socket.inet_ntop(socket.AF_INET6, address)
    return plain.removeprefix("::ffff:")

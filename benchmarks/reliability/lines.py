"""A TCP line between devices and server that can be cut, fall silent, and says how much went over it."""

import contextlib
import socket
import threading
from dataclasses import dataclass, field

BLOCK = 16 << 10
"""Bytes that are forwarded at a time."""
SPEED = 5e6
"""Bytes a second: a good line, but not one that has carried everything before either end has looked."""


@dataclass
class Way:
    """One direction of a line.

    Attributes:
        limit: bytes after which a connection is cut; 0 for never.
        carried: bytes that went this way in all connections.
        cuts: connections that were cut.
    """

    limit: int = 0
    carried: int = 0
    cuts: int = 0


@dataclass
class Line:
    """Forwards connections on a port of its own to the server's, both ways.

    Attributes:
        target: the server's port.
        up: towards the server.
        down: towards the device.
    """

    target: int
    up: Way = field(default_factory=Way)
    down: Way = field(default_factory=Way)
    _began: int = 0
    _silent: int = 0
    _over: threading.Event = field(default_factory=threading.Event)
    _open: list[socket.socket] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> "Line":
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._spawn(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.cut()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    @property
    def address(self) -> str:
        """For devices."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self) -> None:
        """Breaks every connection, so that both ends see it."""
        while self._open:
            end = self._open.pop()
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def fall_silent(self) -> None:
        """Forwards nothing more over the connections there are, and lets both ends believe in them."""
        self._silent = self._began

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                device, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target), 5)
            except OSError:
                continue
            self._open += [device, server]
            self._began += 1
            self._spawn(self._pump, self._began, device, server, self.up)
            self._spawn(self._pump, self._began, server, device, self.down)

    def _pump(self, number: int, source: socket.socket, sink: socket.socket, way: Way) -> None:
        """Forwards one direction until an end closes, or the connection has carried what it may."""
        carried = 0
        with contextlib.suppress(OSError):
            while data := source.recv(BLOCK):
                while number <= self._silent and not self._over.wait(0.01):
                    pass
                self._over.wait(len(data) / SPEED)
                sink.sendall(data)
                carried += len(data)
                way.carried += len(data)
                if way.limit and carried >= way.limit:
                    way.cuts += 1
                    break
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _spawn(self, function: object, *arguments: object) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

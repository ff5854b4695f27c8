"""A TCP proxy on loopback that counts what passes through it."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

PIECE = 1 << 18


@dataclass
class Counted:
    """Bytes that passed so far, and the port where clients connect."""

    port: int = 0
    up: int = 0
    down: int = 0


@contextmanager
def counting(target: int) -> Iterator[Counted]:
    """A proxy to a port of this machine, on a thread of its own."""
    counted, loop, ready, over = Counted(), asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve() -> None:
        server = await asyncio.start_server(lambda r, w: _join(r, w, target, counted), "127.0.0.1", 0)
        counted.port = server.sockets[0].getsockname()[1]
        ready.set()
        await over.wait()
        server.close()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:  # which ends what is still joined, too
            runner.run(serve())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait()
    try:
        yield counted
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(5)


async def _join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: int, counted: Counted) -> None:
    with contextlib.suppress(OSError, asyncio.CancelledError):
        there, back = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(_pass(reader, back, counted, "up"), _pass(there, writer, counted, "down"))


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counted: Counted, way: str) -> None:
    try:
        while piece := await reader.read(PIECE):
            setattr(counted, way, getattr(counted, way) + len(piece))
            writer.write(piece)
            await writer.drain()
    finally:
        writer.close()

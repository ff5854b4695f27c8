"""The least that a round takes: the same bytes to as many processes and back, and added up. Raw sockets and numpy.

usage: python -m benchmarks.serving.floor PORT BYTES, in the repository: one client.
"""

import socket
import sys
import threading
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.processes import group
from benchmarks.serving.turns import Turn, Work, durations
from ravan.layout import Vector


class Floor:
    """A server with a thread for each connection, which keeps no update: each is added to one sum in float64."""

    def __init__(self, values: int) -> None:
        self._values = values

    def play(self, work: Work, folder: Path, *, count: bool = False) -> Turn:
        """All rounds."""
        with socket.create_server(("127.0.0.1", 0)) as listening, group(folder / "floor.log", {}) as start:
            command = [sys.executable, "-m", "benchmarks.serving.floor", str(listening.getsockname()[1])]
            for _ in range(work.clients):
                start([*command, str(4 * self._values)])
            lines = [listening.accept()[0] for _ in range(work.clients)]
            try:
                ends = self._rounds(lines, work.rounds)
            finally:
                for line in lines:
                    line.close()
        return Turn(durations(ends))

    def _rounds(self, lines: list[socket.socket], rounds: int) -> list[float]:
        vector: Vector = np.zeros(self._values, np.float32)
        lock, ends = threading.Lock(), list[float]()
        for _ in range(rounds):
            total = np.zeros(self._values)
            threads = [threading.Thread(target=_serve, args=(line, vector, total, lock)) for line in lines]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            vector = (total / len(lines)).astype(np.float32)
            ends.append(time.time())
        return ends


def _serve(line: socket.socket, vector: Vector, total: NDArray[np.float64], lock: threading.Lock) -> None:
    received = np.empty_like(vector)
    line.sendall(vector.data.cast("B"))
    receive(line, received)
    with lock:
        np.add(total, received, out=total)


def receive(line: socket.socket, into: Vector) -> bool:
    """Fills an array from a connection; False if that has ended."""
    view, position = into.data.cast("B"), 0
    while position < len(view):
        read = line.recv_into(view[position:])
        if not read:
            return False
        position += read
    return True


def main() -> None:
    """One client: adds a constant until the server hangs up."""
    port, size = map(int, sys.argv[1:])
    vector = np.empty(size // 4, np.float32)
    with socket.create_connection(("127.0.0.1", port)) as line:
        while receive(line, vector):
            vector += 1
            line.sendall(vector.data.cast("B"))


if __name__ == "__main__":
    main()

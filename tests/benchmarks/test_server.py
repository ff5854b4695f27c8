"""The server's benchmark plays whole rounds with real processes, and counts and reports what it says."""

import os
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.reliability.bundle import SMALL, filler_bundle
from benchmarks.serving.floor import Floor
from benchmarks.serving.memory import PeakMemory
from benchmarks.serving.ours import Ours
from benchmarks.serving.proxy import counting
from benchmarks.serving.section import FLOOR, FLOWER, OURS, Row, server_section
from benchmarks.serving.turns import Work
from ravan.sizes import largest_size
from ravan.update import decode
from server.blobs import FileBlobs
from server.sql_state import open_sqlite

ROW = Row("1.2 MB", 4, OURS, 1_000_000, 0.2, ((0.2, 0.2),), 100.0, 1.01e6, 1.02e6, {}, "")
MACHINE = {"cpu": "a", "cores": 2, "memory_gib": 1, "system": "s", "python": "3", "load": (0.1, 0.1, 0.1)}


def test_our_rounds_are_the_products_and_their_bytes_are_counted(tmp_path: Path) -> None:
    bundle = filler_bundle(tmp_path / "bundle")
    folder = tmp_path / "turn"
    folder.mkdir()
    turn = Ours(bundle, insecure=False).play(Work(clients=2, rounds=3), folder, count=True)
    assert len(turn.seconds) == 2
    assert min(turn.seconds) > 0
    assert turn.up > 2 * 3 * largest_size(SMALL)
    assert turn.down > turn.up  # the bundle too
    assert turn.server_bytes > 20 << 20
    state = open_sqlite(folder / "state")
    (run,) = state.runs()
    state.close()
    adapter = decode(SMALL, FileBlobs(folder / "state" / "adapters").get(run.adapter))
    np.testing.assert_array_equal(adapter.sH, np.full_like(adapter.sH, 3))  # each of the rounds added one


def test_the_floor_moves_and_adds_up_every_round(tmp_path: Path) -> None:
    turn = Floor(1000).play(Work(clients=2, rounds=4), tmp_path)
    assert len(turn.seconds) == 3
    assert min(turn.seconds) > 0


def test_the_proxy_counts_both_ways() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as target,
        counting(target.getsockname()[1]) as counted,
        socket.create_connection(("127.0.0.1", counted.port)) as line,
        target.accept()[0] as there,
    ):
        line.sendall(b"x" * 1000)
        assert len(there.recv(1000, socket.MSG_WAITALL)) == 1000
        there.sendall(b"y" * 10)
        assert len(line.recv(10, socket.MSG_WAITALL)) == 10
    assert (counted.up, counted.down) == (1000, 10)


def test_memory_is_seen_at_its_peak() -> None:
    with PeakMemory(os.getpid()) as before:
        np.zeros(1).sum()
        before._over.wait(0.3)
    with PeakMemory(os.getpid()) as memory:
        block = np.ones(64 << 20, np.uint8)
        memory._over.wait(0.5)
        del block
    assert memory.bytes > before.bytes + (50 << 20)


@pytest.mark.parametrize(("flower", "said"), [(20.0, "met, 100 to 100 times"), (2.0, "not met, 10 to 10 times")])
def test_the_report_holds_every_target_against_what_was_measured(flower: float, said: str) -> None:
    ours = replace(ROW, machine=MACHINE)
    rows = [replace(ours, contender=FLOOR, seconds=0.05), ours, replace(ours, contender=FLOWER, seconds=flower)]
    section = server_section(rows)
    assert f"50 times Flower's rounds a second: {said}" in section
    assert "within 2 times of the floor: not met, 4.0 to 4.0 times" in section
    assert "at most 1.02 times the payload each way: met, at most 1.020" in section

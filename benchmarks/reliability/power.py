"""Promise 1, power cuts: what is on the disk at the moment of a receipt is enough.

The state is on an ext4 of its own in a file, which writes nothing by itself for minutes: what the file holds is what
was synced. At every receipt the server is stopped and the file copied, which is what a power cut would leave. Each copy
is mounted, which replays the journal, and asked for the update: its row, and its bytes. The same again with a server
whose syncs do nothing, to show that the copies would tell.
"""

import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from benchmarks.reliability.bundle import SMALL, filler_bundle
from benchmarks.reliability.devices import plain_devices
from benchmarks.reliability.disks import disk_in_file, may_mount
from benchmarks.reliability.figures import Figure
from benchmarks.reliability.hosts import Server
from benchmarks.reliability.once import until_task
from benchmarks.reliability.stormy import VARIABLE
from ravan.errors import RavanError
from ravan.files import write_atomically
from ravan.update import decode
from server import client
from server.blobs import FileBlobs
from server.records import AssignmentState
from server.sql_state import DATABASE, open_sqlite

CUTS = 20
OPTIONS = {"rounds": CUTS, "clients_per_round": 1, "poll_min": 0.01, "poll_max": 0.02, "max_norm_ratio": 0}


def figures(folder: Path) -> Iterator[Figure]:
    """An honest server, then one that says that it synced."""
    if not may_mount():
        yield Figure(
            1, "power cut at a receipt", "the update is on disk", "not tried: needs root for a disk", met=False
        )
        return
    kept = cut(folder / "honest", b"{}")
    yield Figure(
        1,
        "power cut at the moment of a receipt: the disk as it was, without what the server had not synced",
        "row and bytes of the update are there, the database is sound",
        f"{kept} of {CUTS} receipts kept",
        met=kept == CUTS,
    )
    lost = CUTS - cut(folder / "lying", b'{"lying": true}')
    yield Figure(
        1,
        "the same with a server whose syncs do nothing",
        "some are lost, or the trial shows nothing",
        f"{lost} of {CUTS} receipts lost",
        met=lost > 0,
    )


def cut(folder: Path, weather: bytes) -> int:
    """How many of the receipts of a run are kept, each in a power cut of its own."""
    folder.mkdir()
    write_atomically(folder / "weather.json", weather)
    bundle = filler_bundle(folder / "bundle")
    server, image = Server(folder, program=("benchmarks.reliability.stormy",)), folder / "disk.img"
    receipts = []
    with ExitStack() as stack:
        stack.enter_context(disk_in_file(image, server.state))
        stack.callback(server.kill)
        server.start(environment={VARIABLE: str(folder / "weather.json")})
        server.wait()
        client.create_run(server.control, {**OPTIONS, "bundle": str(bundle.folder)})
        (device,) = plain_devices(server, SMALL, 1)
        stack.callback(device.end)
        for number in range(1, CUTS + 1):
            device._take_part(until_task(device.client))
            os.kill(server.pid, signal.SIGSTOP)
            shutil.copyfile(image, folder / f"{number}.img")
            os.kill(server.pid, signal.SIGCONT)
            receipts.append(device.receipts[number])
    found = [_is_kept(folder / f"{n}.img", folder / "after", *receipt) for n, receipt in enumerate(receipts, 1)]
    return sum(found)


def _is_kept(image: Path, folder: Path, receipt: str, sha256: str) -> bool:
    """Whether the disk that a power cut left has an update."""
    with disk_in_file(image, folder):
        try:
            with closing(sqlite3.connect(folder / DATABASE)) as database:
                sound = database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            with closing(open_sqlite(folder)) as state:
                part = state.assignment(*_split(receipt))
            decode(SMALL, FileBlobs(folder / "updates").get(sha256))
        except (RavanError, sqlite3.Error):
            return False
    return sound and part is not None and (part.state, part.sha256) == (AssignmentState.RECEIVED, sha256)


def _split(receipt: str) -> tuple[str, int, str]:
    run_id, number, device_id = receipt.split("/")
    return run_id, int(number), device_id

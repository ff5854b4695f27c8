"""Promise 10, lines: cut over and over in a run, and half open, so that one end believes in a dead connection."""

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from benchmarks.reliability.bundle import LARGE, SMALL
from benchmarks.reliability.devices import QUICK, Device, draw, expected
from benchmarks.reliability.figures import Figure
from benchmarks.reliability.lines import Line
from benchmarks.reliability.once import hosting, until_task
from edge.errors import Stopped
from edge.fleet_client import FleetClient
from protos.ravan.v1 import fleet_pb2 as pb
from ravan.bundle import INITIAL
from ravan.update import decode, encode
from server import client
from server.settings import RunOptions
from server.sql_state import open_sqlite

ROUNDS, DEVICES = 10, 3
RETURN_SECONDS = 10.0
NOTICE_SECONDS = 90.0


def cut_lines(folder: Path) -> Iterator[Figure]:
    """Three devices whose lines break ten times a second."""
    options = {"rounds": ROUNDS, "clients_per_round": DEVICES, "min_devices": DEVICES, "min_updates": DEVICES}
    with hosting(folder, SMALL, options) as (server, bundle), Line(server.port) as line:
        devices = [_device(line, number) for number in range(DEVICES)]
        for device in devices:
            device.start()
        cuts = 0
        while not all(device.is_done for device in devices):
            time.sleep(0.1)
            line.cut()
            cuts += 1
        for device in devices:
            device.end()
        wanted = expected(
            SMALL, (bundle.folder / INITIAL).read_bytes(), [d.device_id for d in devices], RunOptions(**options)
        )
        with closing(open_sqlite(server.state)) as state:
            same = [r.adapter for r in state.rounds(state.runs()[0].run_id)] == wanted
        refused = dict(client.devices(server.control).refused)
    yield Figure(
        10,
        f"every line of {DEVICES} devices cut ten times a second, over {ROUNDS} rounds",
        "the bits of a run with whole lines",
        f"{cuts} times cut, {'bit-equal' if same else 'other bits'}; refused: {refused or 'nothing'}",
        met=same and cuts > 0,
    )


def half_open_lines(folder: Path) -> Iterator[Figure]:
    """An upload of 4.6 MB falls silent in the middle: the device comes back, or only notices after a while."""
    with hosting(folder, LARGE, {"rounds": 2, "clients_per_round": 1}) as (server, _), Line(server.port) as line:
        device, stop = FleetClient(line.address, f"{1:032x}", threading.Event(), patience=QUICK), threading.Event()
        again = FleetClient(server.address, device.device_id, stop, patience=QUICK)
        header, data = _update(device)
        Upload(line, device, header, data)
        began = time.monotonic()
        again.upload(header, data)
        seconds = time.monotonic() - began
        yield Figure(
            10,
            "a device killed in an upload of 4.6 MB, whose line stays half open, comes back over another",
            f"a receipt within {RETURN_SECONDS:.0f} s",
            f"after {seconds:.1f} s",
            met=seconds < RETURN_SECONDS,
        )
        device.close()
        device = FleetClient(line.address, device.device_id, stop, patience=QUICK)
        header, data = _update(device)
        uploading = Upload(line, device, header, data)
        began = time.monotonic()
        uploading.join(2 * NOTICE_SECONDS)
        seconds = time.monotonic() - began
        yield Figure(
            10,
            "a device in the middle of an upload of 4.6 MB does not hear that its line is dead",
            f"notices and has its receipt within {NOTICE_SECONDS:.0f} s",
            f"after {seconds:.1f} s" if uploading.receipt else "no receipt",
            met=bool(uploading.receipt) and seconds < NOTICE_SECONDS,
        )
        stop.set()
        device.close()
        again.close()


def _device(line: Line, number: int) -> Device:
    stop = threading.Event()
    return Device(number, SMALL, FleetClient(line.address, f"{number + 1:032x}", stop, patience=QUICK), stop)


def _update(device: FleetClient) -> tuple[pb.UploadHeader, bytes]:
    """The header and the bytes of the device's update for its round."""
    task = until_task(device)
    base = decode(LARGE, device.fetch_adapter(task.binding, task.adapter_size))
    data = encode(LARGE, draw(LARGE, base, 0, task.binding.round))
    digest = hashlib.sha256(data).hexdigest()
    return pb.UploadHeader(device_id=device.device_id, binding=task.binding, sha256=digest, size=len(data)), data


class Upload(threading.Thread):
    """An upload whose line falls silent after a third of it."""

    def __init__(self, line: Line, device: FleetClient, header: pb.UploadHeader, data: bytes) -> None:
        super().__init__(daemon=True)
        self._device = device
        self._header = header
        self._data = data
        self.receipt = ""
        already = line.up.carried
        self.start()
        while line.up.carried - already < len(data) / 3:
            time.sleep(0.005)
        line.fall_silent()

    def run(self) -> None:
        """Until it has its receipt, or its client is closed."""
        with contextlib.suppress(Stopped, ValueError):
            self.receipt = self._device.upload(self._header, self._data)

"""Promise 10, clocks: an enrolled device whose clock is a day off is told so, and is let in once it is set."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.reliability.bundle import SMALL, filler_bundle
from benchmarks.reliability.devices import CAPABILITIES, enrolled_devices
from benchmarks.reliability.figures import Figure
from benchmarks.reliability.hosts import Server
from benchmarks.reliability.trial import Persistence
from edge.errors import Refused

DAY = 86_400.0


def wrong_clocks(folder: Path) -> Iterator[Figure]:
    """A day ahead, and a day behind."""
    folder.mkdir()
    server = Server(folder, secure=True)
    server.initialize()
    filler_bundle(folder / "bundle")
    server.start()
    try:
        server.wait()
        (device,) = enrolled_devices(server, SMALL, 1, Persistence(threading.Event()))
        for where, seconds, code in (("ahead", DAY, "future-call"), ("behind", -DAY, "stale-call")):
            device.client.check_in("clock", CAPABILITIES)
            device.client._signing._clock = lambda off=seconds: time.time() + off  # type: ignore[misc]
            heard, sentence = "served", ""
            try:
                device.client.check_in("clock", CAPABILITIES)
            except Refused as error:
                heard, sentence = error.code, str(error)
            device.client._signing._clock = time.time
            device.client.check_in("clock", CAPABILITIES)
            yield Figure(
                10,
                f"a device's clock is a day {where}",
                f"{code}, with by how much; let in once it is set",
                f"{heard}: {sentence} Then let in.",
                met=heard == code and "24.0 h" in sentence,
            )
        device.end()
    finally:
        server.kill()

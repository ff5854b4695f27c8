"""Weather between a device's processes and their machine; Python imports this where ``PYTHONPATH`` names its folder.

``RAVAN_WEATHER`` names a JSON file, as for ``stormy.py``: ``{"lying": true}`` says of every fsync that it was done, and
``{"clock": 86400}`` sets the clock ahead, but for gRPC, whose deadlines its core compares with the machine's. The
device's own code is not touched.
"""

import json
import os
import sys
import time


def _now(path: str, name: str) -> float:
    with open(path, encoding="ascii") as file:
        return float(json.load(file).get(name, 0))


def _begin(path: str) -> None:
    sync, clock = os.fsync, time.time
    os.fsync = lambda fd: None if _now(path, "lying") else sync(fd)

    def now() -> float:
        caller = str(sys._getframe(1).f_globals.get("__name__"))
        return clock() if caller.startswith("grpc") else clock() + _now(path, "clock")

    time.time = now


if "RAVAN_WEATHER" in os.environ:
    _begin(os.environ["RAVAN_WEATHER"])

"""Named points at which a test kills this process as kill -9 does, to show that nothing is lost there.

For tests alone: nothing happens at a point unless the environment variable ``RAVAN_FAULT`` names it, and which time it
is reached in this process, as in ``update-counted:2``. A server that is told so says it when it starts.
"""

import os
import signal
from collections import Counter
from functools import cache

from ravan.errors import SettingsError

VARIABLE = "RAVAN_FAULT"
POINTS = frozenset(
    {
        *("file-written", "file-synced", "file-renamed", "folder-synced"),
        *("before-commit", "committed"),
        *("bundle-opened", "initial-stored", "run-created"),
        *("round-opened", "devices-selected", "round-closed"),
        *("header-read", "piece-kept", "body-complete", "update-admitted", "update-stored", "update-counted"),
        *("receipt-given", "receipt-sent"),
        *("updates-folded", "memory-stored", "adapter-stored", "files-published", "round-published"),
        *("updates-dropped", "run-finished"),
        *("tokens-made", "token-used", "nonces-kept", "key-rotated"),
    }
)
"""Every point of a server: of a file and of a transaction, whatever it is for; then of a run, a round, an upload, a
publication, the end of a run, and who may call."""
DEVICE_POINTS = frozenset(
    {
        *("file-written", "file-synced", "file-renamed", "folder-synced"),
        *("piece-fetched", "file-fetched", "bundle-fetched", "base-kept"),
        *("step-done", "checkpoint-kept", "update-finished", "run-kept"),
        *("piece-sent", "update-sent", "rest-kept", "desk-cleared"),
    }
)
"""Every point of a device: of a file, whatever it is for; then of the download, the local run, which is in the worker,
and the upload."""
RELEASE_POINTS = frozenset({"archive-stored", "client-fetched", "client-unpacked"})
"""Of a client's newer version, at server and device."""


class Fault:
    """Kills this process at the given time that a point is reached."""

    def __init__(self, point: str, time: int) -> None:
        self.point = point
        self.time = time
        self._reached: Counter[str] = Counter()

    def reach(self, point: str) -> None:
        """Returns unless this is the point and the time."""
        self._reached[point] += 1
        if point == self.point and self._reached[point] == self.time:
            os.kill(os.getpid(), signal.SIGKILL)


def reached(point: str) -> None:
    """Marks a point of the program."""
    fault = asked()
    if fault is not None:
        fault.reach(point)


@cache
def asked() -> Fault | None:
    """The fault that the environment asks for, read once.

    Raises:
        SettingsError: it asks for something else.
    """
    text = os.environ.get(VARIABLE)
    if text is None:
        return None
    point, _, time = text.partition(":")
    if (
        point not in POINTS | DEVICE_POINTS | RELEASE_POINTS
        or not time.isascii()
        or not time.isdigit()
        or int(time) < 1
    ):
        raise SettingsError(f"{VARIABLE}={text} is no point and time: it is for tests alone, leave it unset.")
    return Fault(point, int(time))

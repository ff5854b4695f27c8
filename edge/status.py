"""What a client is doing, as data in a file of its home: written by the client alone, read by anybody at any time.

The file is replaced as a whole and not synced: what a power cut loses of it is out of date by then anyway.
"""

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import ravan
from edge.machine import started_at

STATUS = "status.json"
VERSION = 1
STEP_SECONDS = 2.0
"""How often at most steps of training are written."""


class Doing(StrEnum):
    """What a device is at."""

    STARTING = "starting"
    WAITING = "waiting"
    HELD = "held"
    FETCHING = "fetching"
    TRAINING = "training"
    PAUSED = "paused"
    UPLOADING = "uploading"
    ENDED = "ended"


@dataclass(frozen=True)
class DeviceStatus:
    """One device; times are Unix seconds.

    Attributes:
        doing: what it is at, ``since`` when.
        why: sentences that say why it waits, is held or paused.
        until: when that may change, if it is known.
        away_since: since when the server does not answer, ``away`` how that shows.
        run: the run of the task at hand or the last one; its ``round``, ``step`` of ``steps`` and ``loss``.
        problem: what went wrong last, a sentence, at ``problem_at``.
    """

    doing: Doing = Doing.STARTING
    since: float = 0.0
    why: tuple[str, ...] = ()
    until: float | None = None
    away: str = ""
    away_since: float | None = None
    run: str = ""
    round: int = 0
    step: int = 0
    steps: int = 0
    loss: float | None = None
    problem: str = ""
    problem_at: float | None = None


@dataclass(frozen=True)
class Status:
    """A client.

    Attributes:
        pid: its process, which ``started`` tells from a later one of the same number.
        began: when it started, Unix time.
        written: when it last said so.
        server: host:port.
        data: its data files.
        software: its version.
        devices: by name.
    """

    pid: int
    started: str
    began: float
    written: float
    server: str = ""
    data: tuple[str, ...] = ()
    software: str = ""
    devices: dict[str, DeviceStatus] = field(default_factory=dict)

    @property
    def is_alive(self) -> bool:
        """Whether the client that wrote it still runs."""
        return started_at(self.pid) == self.started

    @property
    def ended_well(self) -> bool:
        """Whether it said good-bye."""
        return all(device.doing is Doing.ENDED for device in self.devices.values())


class Board:
    """Where the threads of a client say what their devices do."""

    def __init__(
        self,
        home: Path,
        devices: dict[str, Path],
        server: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path, self._clock, self._lock = home / STATUS, clock, threading.Lock()
        self._stepped = 0.0
        now, pid = clock(), os.getpid()
        data = tuple(str(path) for path in devices.values())
        starting = DeviceStatus(since=now)
        status = Status(pid, started_at(pid) or "", now, now, server, data, ravan.__version__)
        self._status = replace(status, devices=dict.fromkeys(devices, starting))
        self._write()

    def say(self, device: str, doing: Doing | None = None, **changes: Any) -> None:
        """Changes fields of a device; with another ``doing``, all that belonged to the former one is gone."""
        with self._lock:
            before = self._status.devices[device]
            changed = before
            if doing is not None and doing is not before.doing:
                changed = replace(before, doing=doing, since=self._clock(), why=(), until=None)
            changed = replace(changed, **changes)
            if changed != before:
                self._status.devices[device] = changed
                self._write()

    def doing(self, device: str) -> Doing:
        """What a device was last said to be at."""
        return self._status.devices[device].doing

    def step(self, device: str, step: int, loss: float) -> None:
        """Notes a step of training; written now and then."""
        with self._lock:
            self._status.devices[device] = replace(self._status.devices[device], step=step, loss=loss)
            if self._clock() - self._stepped > STEP_SECONDS:
                self._stepped = self._clock()
                self._write()

    def answered(self, device: str) -> None:
        """Notes that the server answers."""
        self.say(device, away="", away_since=None)

    def is_away(self, device: str, how: str) -> None:
        """Notes that it does not."""
        since = self._status.devices[device].away_since
        self.say(device, away=how, away_since=self._clock() if since is None else since)

    def failed(self, device: str, problem: str) -> None:
        """Notes what went wrong."""
        self.say(device, problem=problem, problem_at=self._clock())

    def _write(self) -> None:
        self._status = replace(self._status, written=self._clock())
        fresh = self._path.with_name(f".{self._path.name}.tmp")
        try:
            with open(fresh, "w", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
                json.dump({"version": VERSION, **asdict(self._status)}, file)
            fresh.replace(self._path)
        except OSError:  # a full disk must not end what works; the next change is written again
            fresh.unlink(missing_ok=True)


def read_status(home: Path) -> Status | None:
    """What the last client of a home said; None if none did, or in a form that is unknown here."""
    try:
        found = json.loads((home / STATUS).read_text("utf-8"))
        if found.pop("version") != VERSION:
            return None
        devices = {name: _device(values) for name, values in found.pop("devices").items()}
        kept = _known(Status, found)  # a client that was newer may have said more
        return Status(**{**kept, "data": tuple(kept["data"]), "devices": devices})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _device(values: dict[str, Any]) -> DeviceStatus:
    kept = _known(DeviceStatus, values)
    return DeviceStatus(**{**kept, "doing": Doing(kept["doing"]), "why": tuple(kept["why"])})


def _known(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    """Those of the values that a dataclass has fields for."""
    names = {f.name for f in fields(kind)}
    return {name: value for name, value in values.items() if name in names}

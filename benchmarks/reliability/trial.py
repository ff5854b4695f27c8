"""What all trials with kill -9 have in common: servers that die, devices that go on, and what must be left of them."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from benchmarks.reliability.devices import Device
from benchmarks.reliability.hosts import Server
from ravan.errors import EnvironmentProblem, RavanError
from server import client
from server.records import Assignment, AssignmentState

T = TypeVar("T")
ANY_MOMENT = "any moment"


@dataclass
class KillTrial:
    """One run over many lives of one server or several.

    Attributes:
        folder: empty.
        faults: where lives end, as ``point:time``.
        rounds: of the run.
        kills: by point, those that happened.
        receipts: that devices held in the end.
        problems: what is not as it must be; empty if all is well.
    """

    folder: Path
    faults: Sequence[str]
    rounds: int
    kills: Counter[str] = field(default_factory=Counter)
    receipts: int = 0
    problems: list[str] = field(default_factory=list)

    def live(self, server: Server, fault: str, over: threading.Event, seconds: float) -> None:
        """One life, from a start to kill -9: at the fault, or wherever the server is so long after its first answer."""
        server.start(fault)
        with contextlib.suppress(EnvironmentProblem):  # it may be killed before it answers
            server.wait()
        outlive(server, fault, over, seconds)
        if server.was_killed:
            self.kills[fault.partition(":")[0]] += 1
        elif fault and not over.is_set():
            self.kills[ANY_MOMENT] += 1
        server.kill()

    def play(self, devices: Sequence[Device], seconds: float) -> None:
        """Lets the devices take part until they hear that the run has finished."""
        for device in devices:
            device.start()
        end = time.monotonic() + seconds
        while not all(device.is_done for device in devices):
            if time.monotonic() > end:
                self.problems.append("the run did not finish in time")
                return
            time.sleep(0.02)

    def check_receipts(self, parts: Collection[Assignment], devices: Sequence[Device], blobs: Collection[str]) -> None:
        """Whether every receipt is of a part that counts, and whose bytes are there."""
        by_round = {(part.round, part.device_id): part for part in parts}
        for device in devices:
            for number, (receipt, sha256) in device.receipts.items():
                part = by_round[number, device.device_id]
                kept = (part.receipt, part.state, part.sha256) == (receipt, AssignmentState.RECEIVED, sha256)
                self.check(kept and part.counts_in is not None and sha256 in blobs, f"receipt {receipt} is not kept")
                self.receipts += 1

    def check(self, holds: bool, otherwise: str) -> None:  # noqa: FBT001
        """Notes a problem unless something holds."""
        if not holds:
            self.problems.append(otherwise)


def outlive(server: Server, fault: str, over: threading.Event, seconds: float) -> None:
    """Returns once the server has died or the trial is over, and for one that should die at a fault in time."""
    end = time.monotonic() + seconds
    while server.runs and not over.is_set() and not (fault and time.monotonic() > end):
        over.wait(0.01)


def create_once(server: Server, settings: dict[str, object]) -> None:
    """Creates the run, unless an earlier call did whose answer was lost."""
    try:
        client.create_run(server.control, settings)
    except RavanError as error:
        if "Another run is active" not in str(error):
            raise


class Persistence:
    """Calls a function until the server answers."""

    def __init__(self, over: threading.Event) -> None:
        self._over = over

    def __call__(self, function: Callable[..., T], *arguments: object) -> T:
        """What the function returns in the end."""
        while True:
            try:
                return function(*arguments)
            except (RavanError, OSError):
                if self._over.wait(0.05):
                    raise

"""How a client becomes a newer one: found, fetched and handed over to while it runs, started before it when it starts.

Always the installed program starts, looks at the clients in its home, and turns into the newest that may be started;
a client that hands over becomes the installed one again. So what decides is never newer than what was installed.
"""

import os
import platform
import random
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import structlog

from edge.clients import Clients, Successor, operator_of
from edge.conditions import Conditions
from edge.errors import NotLetIn, Stopped
from edge.fleet_client import FleetClient
from edge.home import Home
from edge.identity import Identities
from edge.itself import TRY, environment_for_another, own_program
from edge.quota import MEGABYTE, Quota
from ravan.errors import RavanError
from ravan.files import holder
from ravan.processes import last_words
from ravan.rpc.vouching import Archive

log = structlog.get_logger()
HOUR = 3600.0  # seconds
INSTALLED = "RAVAN_INSTALLED"
"""Environment variable of a client that the installed one turned into: that one's program."""
TRY_SECONDS = 180.0
TRIAL_SECONDS = 3600.0
"""For which a client on trial waits for the server's answer before an older one has its turn."""
WELL_SECONDS = 60.0
"""A client that runs for so long does not crash at every start."""
SOON_SECONDS = 600.0
"""Within which the first look is taken."""
HELD_SECONDS = 60.0


def start_successor(home: Path, disk_mb: int, arguments: Sequence[str]) -> None:
    """Turns this process into the newest client of a home that may be started and shows that it can; else returns.

    Args:
        home: the device's.
        disk_mb: most that it takes.
        arguments: the command line's, without the program.
    """
    program = own_program()
    if program is None or not home.is_dir() or holder(home, "lock") is not None:  # else it says so a moment later
        return
    try:
        clients = Clients(home, operator_of(Identities(home / "devices")), Quota(home, disk_mb * MEGABYTE))
        for successor in clients.successors():
            if not successor.on_trial or _can_start(successor, arguments):
                environment = {**environment_for_another(), INSTALLED: str(program)}
                _become(successor.program, arguments, environment)
    except (RavanError, OSError) as error:
        log.warning("no newer client is started", reason=str(error))


def start_again(arguments: Sequence[str]) -> NoReturn:
    """Turns this process into the installed client, which chooses anew what to start."""
    program = installed_program()
    assert program is not None
    log.info("starting again", program=str(program))
    _become(program, arguments, environment_for_another())


def installed_program() -> Path | None:
    """What was installed: of a client that it turned into as that was told, else this program; None if it is gone."""
    told = os.environ.get(INSTALLED)
    program = Path(told) if told else own_program()
    return program if program is not None and program.is_file() else None


class Updates:
    """Looks for newer clients while this one runs.

    Args:
        home: the device's.
        hours: between two looks, 0 for never.
        stop: set when there is something to hand over to.

    Attributes:
        hands_over: whether this client is to end so that another one starts.
    """

    def __init__(self, home: Home, hours: float, stop: threading.Event) -> None:
        self.hands_over = False
        self._seconds, self._stop = hours * HOUR, stop
        operator = operator_of(home.identities) if hours else ""
        self._clients = Clients(home.folder, operator, home.quota)
        now = time.monotonic()
        self._trial_ends, self._well_at = now + TRIAL_SECONDS, now + WELL_SECONDS
        self._has_answer = False

    @property
    def version(self) -> str:
        """Of the client that runs."""
        return self._clients.version

    @property
    def on_trial(self) -> bool:
        """Whether the server has never answered this client, which can hand over to an older one."""
        return self._clients.on_trial and installed_program() is not None

    def begin(self, connections: Sequence[FleetClient], conditions: Conditions) -> None:
        """Looks on a thread of its own, as long as the process lives."""
        if not self._seconds or connections[0].identity is None:
            return
        if installed_program() is None:
            log.info("this client does not update itself", reason="it runs from source, or what was installed is gone")
            return
        threading.Thread(target=self._watch, args=(connections, conditions), name="updates", daemon=True).start()

    def look(self, connections: Sequence[FleetClient]) -> None:
        """Notes that the client runs well; hands over if one on trial has waited too long for the server's answer."""
        if time.monotonic() > self._well_at:
            self.did_well()
        if self._has_answer or self.hands_over:
            return
        if any(connection.was_let_in for connection in connections):
            self._has_answer = True
            _noted(self._clients.answered)
        elif self.on_trial and time.monotonic() > self._trial_ends:
            log.warning("the server does not answer the new client", version=self.version)
            self._hand_over()

    def did_well(self) -> None:
        """Notes, once is enough, that this client does not crash at every start."""
        _noted(self._clients.did_well)

    def _watch(self, connections: Sequence[FleetClient], conditions: Conditions) -> None:
        wait = random.uniform(0, min(self._seconds, SOON_SECONDS))  # noqa: S311 - spreads calls, hides nothing
        while not self._stop.wait(wait):
            wait = random.uniform(0.5, 1.0) * self._seconds  # noqa: S311
            if conditions.against_tasks():
                wait = min(wait, HELD_SECONDS)
                continue
            try:
                if self._find(connections):
                    self._hand_over()
            except Stopped:
                return
            except (RavanError, OSError) as error:
                log.warning("no newer client is taken", reason=str(error))

    def _find(self, connections: Sequence[FleetClient]) -> bool:
        """Fetches what the server offers; returns whether there is a newer client to hand over to."""
        for connection in connections:
            try:
                offered = connection.find_release(platform.machine(), self.version)
                if offered is None:
                    return False
                archive = Archive.from_proto(offered)
                return self._clients.take(archive, offered.signature, connection.fetch_release)
            except NotLetIn:  # this device is revoked; another may not be
                continue
        return False

    def _hand_over(self) -> None:
        log.info("handing over to another client", version=self.version)
        self.hands_over = True
        self._stop.set()


def _noted(note: Callable[[], None]) -> None:
    """Makes a note if the disk takes it; without it a client has a start less."""
    try:
        note()
    except OSError as error:
        log.warning("how this client does is not noted", reason=error.strerror)


def _can_start(successor: Successor, arguments: Sequence[str]) -> bool:
    """Whether a client on trial takes this one's settings; what it says against that is logged."""
    command = [str(successor.program), TRY, *arguments[1:]]
    try:
        done = subprocess.run(
            command,
            env=environment_for_another(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TRY_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("newer client can't be started", version=successor.version, reason=str(error))
        return False
    if done.returncode:
        log.warning("newer client can't be started", version=successor.version, reason=last_words(done))
    return not done.returncode


def _become(program: Path, arguments: Sequence[str], environment: dict[str, str]) -> NoReturn:
    os.execve(program, [str(program), *arguments], environment)  # noqa: S606 - the same command line, another version

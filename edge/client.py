"""The client: the small process that holds identity and connection, and has the worker train.

``ravan-edge run`` reads the settings, looks at the machine, and becomes this process by ``become``, so that what only
that took is no longer in memory: numpy, onnxruntime, pydantic and the command line.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import structlog

from edge.bandwidth import Bandwidth
from edge.conditions import NO_RULES, Conditions, Rules
from edge.device import Device
from edge.errors import NotEnrolled, Stopped
from edge.fleet_client import FleetClient
from edge.foreman import Foreman
from edge.home import Home
from edge.itself import own_command
from edge.job import WORKER_LOCK, DataOptions, WorkerSettings, from_dict, to_dict
from edge.lean import give_back
from edge.options import DeviceOptions, Equipment
from edge.progress import Progress, progress_for
from edge.quota import MEGABYTE
from edge.rehearsal import Rehearsal
from edge.reporting import Reporting
from edge.runtimes import Runtime, Runtimes
from edge.status import Board
from edge.updating import Updates, start_again
from ravan.cli.logs import configure_logs
from ravan.errors import EnvironmentProblem, RavanError, SettingsError
from ravan.files import holder
from ravan.rpc.address import is_local

log = structlog.get_logger()
CHECK_SECONDS = 0.2
ORPHAN_SECONDS = 10.0
STARTED_SECONDS, LEAN_SECONDS = 2.0, 30.0  # until memory is given back, and between two times: it costs 10 ms
LOCAL_SERVER = "127.0.0.1:7071"


@dataclass(frozen=True)
class ClientSettings:
    """All that the client needs to know.

    Attributes:
        server: host:port; empty for where the devices enrolled.
        insecure: no TLS and no keys.
        worker: how the worker trains.
        equipment: what there is on this machine.
        devices: who takes part.
        rules: when training is allowed, and what of the network.
        bandwidth: most bytes a second of all transfers, 0 for no cap.
        update_hours: between two looks for a newer client, 0 for never.
        dry_run: whether updates are shown instead of sent; ``as_json`` to a program.
    """

    server: str
    insecure: bool
    worker: WorkerSettings
    equipment: Equipment
    devices: tuple[DeviceOptions, ...]
    rules: Rules = NO_RULES
    bandwidth: float = 0.0
    update_hours: float = 0.0
    dry_run: bool = False
    as_json: bool = False

    def to_json(self) -> str:
        """For another process."""
        return json.dumps(to_dict(self))

    @classmethod
    def from_json(cls, text: str) -> "ClientSettings":
        """Reads what ``to_json`` wrote."""
        value = json.loads(text)
        runtimes = value["equipment"]["runtimes"]
        python = runtimes["ort_python"]
        found = Runtimes(Runtime(runtimes["wanted"]), None if python is None else Path(python))
        equipment = Equipment(**value["equipment"] | {"runtimes": found})
        worker = from_dict(WorkerSettings, value["worker"])
        made = {"worker": worker, "equipment": equipment, "devices": tuple(map(_device, value["devices"]))}
        return cls(**value | made | {"rules": Rules.from_dict(value["rules"])})


def become(settings: ClientSettings) -> NoReturn:
    """Turns this process into the client: same process, another program."""
    descriptor = os.memfd_create("ravan-edge")
    os.write(descriptor, settings.to_json().encode())
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.set_inheritable(descriptor, True)  # noqa: FBT003
    sys.stdout.flush()
    command = own_command("_client")
    os.execv(command[0], [*command, str(descriptor), *sys.argv[1:]])  # noqa: S606 - the rest is for whoever reads ps


def main(arguments: Sequence[str]) -> None:
    """Runs the client with the settings in the file descriptor that is the first argument.

    The others are those of the command that became this client; it may hand over to another version of itself.

    Raises:
        RavanError: of the first device that failed.
    """
    with open(int(arguments[0])) as file:
        settings = ClientSettings.from_json(file.read())
    configure_logs()
    stop, told_to_end = threading.Event(), threading.Event()

    def end(*_: object) -> None:
        told_to_end.set()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    with closing(Home(settings.worker.home, settings.worker.disk_mb * MEGABYTE)) as home:
        updates = Updates(home, 0.0 if settings.insecure or settings.dry_run else settings.update_hours, stop)
        try:
            run(settings, home, updates, stop)
            updates.did_well()
        except Exception as error:
            if isinstance(error, RavanError):
                updates.did_well()
            if not (updates.on_trial or updates.hands_over):
                raise
            log.error("client failed", version=updates.version, reason=str(error))
            updates.hands_over = True
    if updates.hands_over and not told_to_end.is_set():
        start_again(arguments[1:])


def run(settings: ClientSettings, home: Home, updates: Updates, stop: threading.Event) -> None:
    """Takes part until stopped, or until all devices have ended.

    Raises:
        RavanError: of the first device that failed.
    """
    bandwidth = Bandwidth(settings.bandwidth, stop)
    end_orphan(home.folder)
    progress = _progress(settings, home)
    foreman = Foreman(settings.worker, Conditions(settings.rules))
    with closing(foreman), ThreadPoolExecutor(len(settings.devices), "device") as threads:
        clients = [connect(home, settings, o.name, stop, bandwidth, progress) for o in settings.devices]
        make = partial(Rehearsal, as_json=settings.as_json) if settings.dry_run else Device
        devices = [
            make(options, client, home, foreman, settings.equipment, progress, stop)
            for options, client in zip(settings.devices, clients, strict=True)
        ]
        updates.begin(clients, foreman.conditions)
        running = {threads.submit(device.run) for device in devices}
        _finish(running, clients, stop, updates)


def _progress(settings: ClientSettings, home: Home) -> Progress:
    """What is shown, with the status file beside it."""
    devices = {options.name: options.data.data for options in settings.devices}
    identities = [home.identities.get(name) or home.identities.get("") for name in devices]
    enrolled = next((identity.server for identity in identities if identity), "")
    server = settings.server or (LOCAL_SERVER if settings.insecure else enrolled)
    return Reporting(progress_for(), Board(home.folder, devices, server))


def connect(
    home: Home,
    settings: ClientSettings,
    name: str,
    stop: threading.Event,
    bandwidth: Bandwidth,
    progress: Progress,
) -> FleetClient:
    """A device's connection: with the key it enrolled with, or to an insecure server on this machine.

    Raises:
        SettingsError: a server on another machine must not be insecure.
        NotEnrolled: the device has no key.
    """
    on_away = partial(progress.away, name)
    if settings.insecure:
        server = settings.server or LOCAL_SERVER
        if not is_local(server):
            raise SettingsError(f"--insecure: {server} is not this machine: leave it out, and enroll this device.")
        return FleetClient(server, home.device_id(name), stop, bandwidth=bandwidth, on_away=on_away)
    identity = home.identities.get(name)
    if identity is None and len(settings.devices) == 1:
        identity = home.identities.get("")
    if identity is None:
        named = f" --name {name}" if len(settings.devices) > 1 else ""
        raise NotEnrolled(
            f"Device {name} is not enrolled in {home.folder}: ask the operator for a token and run "
            f"ravan-edge enroll --server HOST:PORT --ca ca.pem --token TOKEN{named}."
        )
    server = settings.server or identity.server
    return FleetClient(server, identity.device_id, stop, identity, bandwidth=bandwidth, on_away=on_away)


def end_orphan(folder: Path) -> None:
    """Ends the worker of a client that was killed, should it be there still.

    Raises:
        EnvironmentProblem: it can't be ended.
    """
    end = time.monotonic() + ORPHAN_SECONDS
    while (pid := holder(folder, WORKER_LOCK)) is not None:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        if time.monotonic() > end:
            raise EnvironmentProblem(f"Process {pid}, which trains in {folder}, can't be ended: end it first.")
        time.sleep(0.01)


def _device(value: dict[str, Any]) -> DeviceOptions:
    return DeviceOptions(**value | {"data": from_dict(DataOptions, value["data"])})


def _finish(running: set[Future[None]], clients: list[FleetClient], stop: threading.Event, updates: Updates) -> None:
    """Waits for all devices; one that fails is logged at once, and the first decides the exit code at the end."""
    failures: list[BaseException] = []
    lean_at = time.monotonic() + STARTED_SECONDS
    while running:
        if time.monotonic() > lean_at:
            give_back()
            lean_at = time.monotonic() + LEAN_SECONDS
        ended, running = wait(running, timeout=CHECK_SECONDS, return_when=FIRST_COMPLETED)
        updates.look(clients)
        if stop.is_set():
            for client in clients:
                client.close()  # so that no call outlasts the wish to stop
        for error in filter(None, (device.exception() for device in ended)):
            if isinstance(error, Stopped):
                continue
            log.error("device ended", reason=str(error), exc_info=None if isinstance(error, RavanError) else error)
            failures.append(error)
    if failures:
        raise failures[0]

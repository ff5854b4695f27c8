"""A client that looks for newer ones while it runs: when its owner lets it, and back if the server never answers it."""

import errno
import platform
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edge.clients import CLIENTS, Clients, newer_clients, operator_of
from edge.conditions import NO_RULES, Conditions, Metered, Rules
from edge.enrollment import enroll
from edge.fleet_client import FleetClient
from edge.home import Home
from edge.identity import Identity
from edge.updating import INSTALLED, Updates
from protos.ravan.v1 import fleet_pb2 as pb
from ravan.archives import PROGRAM
from ravan.rpc.vouching import Archive
from server import client as operator
from tests.archives import signed_archive
from tests.e2e.processes import until
from tests.server.secured import Secured, secured

OFTEN = 0.05 / 3600


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Secured]:
    with secured(tmp_path / "state") as running:
        yield running


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with closing(Home(tmp_path / "home")) as opened:
        yield opened


@pytest.fixture
def device(server: Secured, home: Home) -> Identity:
    return enroll(home.identities, "", server.address, server.ca, server.token())


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def connection(device: Identity, stop: threading.Event) -> Iterator[FleetClient]:
    with closing(FleetClient(device.server, device.device_id, stop, device)) as client:
        yield client


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process seems to be an installed program."""
    path = tmp_path / PROGRAM
    path.write_text("#!/bin/sh\n")
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", str(path))
    return path


def offer(server: Secured, folder: Path) -> Archive:
    path = folder / "a.tar.gz"
    release = signed_archive(path, server.tls.operator(), "0.2.0", platform.machine())
    operator.set_release(server.control, path, release)
    return Archive.from_proto(release)


def test_what_is_offered_ends_this_client_once_it_is_here(
    server: Secured, home: Home, connection: FleetClient, stop: threading.Event, installed: Path
) -> None:
    updates = Updates(home, OFTEN, stop)
    updates.begin([connection], Conditions(NO_RULES))
    assert not stop.wait(0.5)
    archive = offer(server, installed.parent)
    assert stop.wait(30)
    assert updates.hands_over
    assert [each.archive for each in newer_clients(home.folder)] == [archive]


def test_nothing_is_asked_for_while_the_network_is_metered(
    server: Secured,
    home: Home,
    connection: FleetClient,
    stop: threading.Event,
    installed: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edge.updating.HELD_SECONDS", 0.05)
    offer(server, installed.parent)
    flag = home.folder / "metered"
    flag.touch()
    updates = Updates(home, OFTEN, stop)
    updates.begin([connection], Conditions(Rules(metered=Metered.UPLOADS, metered_flag=flag)))
    assert not stop.wait(1.0)
    assert not connection.was_let_in
    flag.unlink()
    assert stop.wait(30)
    assert updates.hands_over


@pytest.mark.parametrize("hours", [0, OFTEN])
def test_from_source_or_by_its_owners_wish_it_does_not_ask(
    server: Secured, home: Home, connection: FleetClient, stop: threading.Event, tmp_path: Path, hours: float
) -> None:
    offer(server, tmp_path)
    Updates(home, hours, stop).begin([connection], Conditions(NO_RULES))
    assert not stop.wait(1.0)
    assert not connection.was_let_in


@pytest.fixture
def on_trial(
    server: Secured,
    home: Home,
    connection: FleetClient,
    installed: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """This process seems to be the newer client that the installed one turned into; returns its folder's name."""
    offered = offer(server, installed.parent)
    release = operator.releases(server.control)[0]
    clients = Clients(home.folder, operator_of(home.identities), home.quota)
    assert clients.take(offered, release.signature, connection.fetch_release)
    (successor,) = clients.successors()
    monkeypatch.setenv(INSTALLED, str(installed))
    monkeypatch.setattr(sys, "executable", str(successor.program))
    return successor.program.parent.name


def test_a_client_on_trial_is_kept_once_the_server_answers(
    home: Home, device: Identity, stop: threading.Event, on_trial: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.updating.TRIAL_SECONDS", 1.0)
    updates = Updates(home, OFTEN, stop)
    assert (updates.version, updates.on_trial) == ("0.2.0", True)
    with closing(FleetClient(device.server, device.device_id, stop, device)) as connection:
        updates.look([connection])
        assert updates.on_trial
        connection.check_in("one", pb.Capabilities(head_budget=1.0))
        updates.look([connection])
        time.sleep(1.1)
        updates.look([connection])
    assert not updates.hands_over
    assert not Updates(home, OFTEN, stop).on_trial
    assert (home.folder / CLIENTS / on_trial).is_dir()


def test_a_client_on_trial_that_is_not_answered_hands_over_to_the_installed_one(
    home: Home, device: Identity, stop: threading.Event, on_trial: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.updating.TRIAL_SECONDS", 0.2)
    updates = Updates(home, OFTEN, stop)
    with closing(FleetClient("127.0.0.1:1", device.device_id, stop, device)) as connection:
        until(lambda: updates.look([connection]) or updates.hands_over, "the trial to be over")  # type: ignore[func-returns-value]
    assert stop.is_set()
    assert updates.on_trial


def test_a_client_that_was_answered_does_well_once_it_has_run_for_a_while(
    home: Home, device: Identity, stop: threading.Event, on_trial: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clients(home.folder, operator_of(home.identities), home.quota).answered()
    list(Clients(home.folder, operator_of(home.identities), home.quota, program=Path("/installed")).successors())
    assert newer_clients(home.folder)[0].starts == 1
    monkeypatch.setattr("edge.updating.WELL_SECONDS", 0.2)
    updates = Updates(home, OFTEN, stop)
    assert not updates.on_trial
    updates.look([])
    assert newer_clients(home.folder)[0].starts == 1
    time.sleep(0.3)
    updates.look([])
    assert newer_clients(home.folder)[0].starts == 0


def test_a_full_disk_ends_no_client_that_does_well(
    home: Home, device: Identity, stop: threading.Event, on_trial: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("edge.updating.WELL_SECONDS", 0.0)
    monkeypatch.setattr("edge.clients.write_atomically", full)
    updates = Updates(home, OFTEN, stop)
    with closing(FleetClient(device.server, device.device_id, stop, device)) as connection:
        connection.check_in("one", pb.Capabilities(head_budget=1.0))
        updates.look([connection])
    assert not updates.hands_over

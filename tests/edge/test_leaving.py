"""An owner who leaves: the server lets the device in no more, and nothing of the federation stays on the disk."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from edge.enrollment import enroll, rotate
from edge.errors import NotLetIn
from edge.fleet_client import FleetClient
from edge.home import Home
from edge.identity import Identities, Identity
from edge.leaving import DATA, leave, remains
from edge.upload_log import RECEIVED, Upload, UploadLog
from protos.ravan.v1 import fleet_pb2 as pb
from ravan.rpc.signing import Signing
from server import client as operator
from tests.server.secured import Secured, secured

UPLOAD = Upload("one", "run-1", 1, "b" * 64, 1234, "5" * 64, {}, "fp32")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with secured(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def identities(folder: Path) -> Iterator[Identities]:
    """Of a home that holds something of every kind."""
    with closing(Home(folder)) as home:
        for name in DATA:
            (folder / name).mkdir(exist_ok=True)
            (folder / name / "secret").write_text("x")
        yield home.identities


def enrolled(server: Secured, identities: Identities, name: str = "one") -> Identity:
    return enroll(identities, name, server.address, server.ca, server.token())


def check_in(identity: Identity) -> pb.CheckInResponse:
    with closing(FleetClient(identity.server, identity.device_id, threading.Event(), identity)) as client:
        return client.check_in("one", pb.Capabilities(head_budget=1.0))


def held(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.name != "lock")


def test_who_leaves_is_let_in_no_more_and_keeps_nothing(server: Secured, folder: Path, identities: Identities) -> None:
    device = enrolled(server, identities)
    (farewell,) = leave(folder, identities)
    assert (farewell.device_id, farewell.counted, farewell.problem) == (device.device_id, 0, "")
    assert held(folder) == []
    assert list(remains(folder, [farewell])) == []
    with pytest.raises(NotLetIn, match="This device has left: ask for a new token"):
        check_in(device)
    (listed,) = (d for d in operator.devices(server.control).devices if d.device_id == device.device_id)
    assert listed.left


def test_one_of_two_devices_leaves_and_the_other_goes_on(server: Secured, folder: Path, identities: Identities) -> None:
    one, two = enrolled(server, identities), enrolled(server, identities, "two")
    identities.path("one", ".left-out").write_text("x")
    leave(folder, identities, "one")
    assert identities.names() == ["two"]
    assert not identities.files("one")
    assert (folder / "bundles" / "secret").exists()
    assert check_in(two).HasField("wait")
    with pytest.raises(NotLetIn):
        check_in(one)
    leave(folder, identities, "two")
    assert held(folder) == []


def test_a_server_that_is_away_does_not_keep_anybody(server: Secured, folder: Path, identities: Identities) -> None:
    device = enrolled(server, identities)
    away = Identity(**{**vars(device), "server": "127.0.0.1:1"})
    identities.keep(away, ".json")
    record = UploadLog(folder)
    record.ended(UPLOAD, RECEIVED, "receipt")
    farewells = leave(folder, identities)
    assert held(folder) == ["uploads.jsonl"]
    told, counted, stays = remains(folder, farewells)
    assert told.startswith("The server was not told: No server answers at 127.0.0.1:1")
    assert f"Ask the operator to revoke {device.device_id}" in told
    assert counted.startswith("The server keeps 1 update that is counted already")
    assert "uploads.jsonl stays" in stays


def test_a_clock_that_is_off_is_why_the_server_was_not_told(
    server: Secured, folder: Path, identities: Identities, monkeypatch: pytest.MonkeyPatch
) -> None:
    enrolled(server, identities)
    monkeypatch.setattr("edge.leaving.Signing", partial(Signing, clock=lambda: time.time() - 1000))
    (farewell,) = leave(folder, identities)
    assert "clock is" in farewell.problem
    assert held(folder) == []


def test_who_was_revoked_before_leaves_in_peace(server: Secured, folder: Path, identities: Identities) -> None:
    device = enrolled(server, identities)
    operator.revoke_device(server.control, device.device_id)
    (farewell,) = leave(folder, identities)
    assert farewell.problem == ""
    assert held(folder) == []


@pytest.mark.parametrize("lost", ["the answer", "the request"])
def test_a_rotation_that_was_cut_off_keeps_nobody(
    server: Secured, folder: Path, identities: Identities, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    device = enrolled(server, identities)
    where = "edge.identity.Identities.settle" if lost == "the answer" else "edge.fleet_client.FleetClient.rotate_key"
    client = FleetClient(server.address, device.device_id, threading.Event(), device)
    with closing(client), monkeypatch.context() as cut:
        cut.setattr(where, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            rotate(identities, client)
    (farewell,) = leave(folder, identities)
    assert farewell.counted == 0
    assert held(folder) == []


def test_leaving_again_finishes_what_was_cut_off(
    server: Secured, folder: Path, identities: Identities, monkeypatch: pytest.MonkeyPatch
) -> None:
    enrolled(server, identities)
    with monkeypatch.context() as cut:
        cut.setattr("edge.leaving._delete", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            leave(folder, identities)
    (farewell,) = leave(folder, identities)
    assert farewell.problem == ""
    assert held(folder) == []


def test_a_home_without_keys_is_emptied_too(folder: Path, identities: Identities) -> None:
    assert leave(folder, identities) == []
    assert held(folder) == []

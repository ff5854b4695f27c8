"""Releases of the client: signed where the operator's key is, kept by the server, fetched by devices from any byte."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from edge.errors import Refused
from edge.fleet_client import FleetClient
from edge.identity import Identity
from protos.ravan.v1 import control_pb2 as pb
from protos.ravan.v1.releases_pb2 import Release
from ravan.errors import RavanError, ReleaseError, SettingsError
from ravan.rpc.keys import new_key
from ravan.rpc.refusal import code_of
from ravan.rpc.vouching import Archive, is_signed_archive, sign_archive
from server import client
from server.blobs import FileBlobs
from server.certificates import initialize
from server.cli import app
from server.control_address import control_address
from server.signatures import sign_release
from server.tls import Tls
from tests.archives import entry, program, signed_archive, write_archive
from tests.contract.conftest import STATES
from tests.server.hosting import hosting
from tests.server.secured import Known, Secured, secured

NOISE = "#!/bin/sh\n# " + hashlib.shake_128(b"program").hexdigest(600_000) + "\n"
"""A program that does not compress to a single piece."""


@pytest.fixture(params=STATES)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Secured]:
    database = request.getfixturevalue("database") if request.param == "postgresql" else ""
    with secured(tmp_path / "state", database=database) as running:
        yield running


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A server that tests share which leave no release."""
    with secured(tmp_path_factory.mktemp("known") / "state") as running:
        yield running


def connected(server: Secured, device: Known) -> FleetClient:
    identity = Identity("", server.address, server.ca, device.device_id, device.key, 0.0, server.tls.operator_holder())
    return FleetClient(server.address, device.device_id, threading.Event(), identity)


def offer(server: Secured, folder: Path, version: str, machine: str = "x86_64") -> Release:
    path = folder / f"{version}-{machine}.tar.gz"
    release = signed_archive(path, server.tls.operator(), version, machine, NOISE + version)
    client.set_release(server.control, path, release)
    return release


def test_a_device_is_offered_what_is_newer_and_made_for_it_and_fetches_it_from_any_byte(
    server: Secured, tmp_path: Path
) -> None:
    first = offer(server, tmp_path, "0.2.0")
    arm = offer(server, tmp_path, "0.2.1", "aarch64")
    data = (tmp_path / "0.2.0-x86_64.tar.gz").read_bytes()
    with closing(connected(server, server.enroll())) as device:
        assert device.find_release("x86_64", "0.1.0") == first
        assert device.find_release("aarch64", "0.2.0") == arm
        assert device.find_release("riscv64", "0.1.0") is None
        assert device.find_release("x86_64", "0.2.0") is device.find_release("x86_64", "0.3.0") is None
        for offset in (0, 1, len(data) - 1, len(data)):
            received = bytearray()
            device.fetch_release(first.sha256, received.extend, offset, len(data))
            assert bytes(received) == data[offset:]
        second = offer(server, tmp_path, "0.3.0")
        assert device.find_release("x86_64", "0.1.0") == second
        with pytest.raises(Refused, match="not offered any more") as gone:
            device.fetch_release(first.sha256, received.extend, 0, len(data))
        assert gone.value.code == "not-found"
        assert client.releases(server.control) == [arm, second]
        client.withdraw_release(server.control, "x86_64")
        assert device.find_release("x86_64", "0.1.0") is None
        with pytest.raises(RavanError, match="No release is offered to 'x86_64'"):
            client.withdraw_release(server.control, "x86_64")


def test_an_archive_that_is_offered_no_more_takes_no_room(tmp_path: Path) -> None:
    with secured(tmp_path / "state") as server:
        first = offer(server, tmp_path, "0.2.0")
        path = tmp_path / "0.2.0-x86_64.tar.gz"
        client.set_release(server.control, path, sign_release(path, server.tls.operator(), "0.2.0", "aarch64"))
        second = offer(server, tmp_path, "0.3.0")
        stored = FileBlobs(tmp_path / "state" / "archives")
        assert set(stored.names()) == {first.sha256, second.sha256}
        client.withdraw_release(server.control, "aarch64")
        assert stored.names() == [second.sha256]
        stored.put(b"what a crash left behind")
    with secured(tmp_path / "state") as server:
        assert stored.names() == [second.sha256]
        assert client.releases(server.control) == [second]


def send(server: Secured, *messages: pb.SetReleaseRequest) -> str:
    """The code by which a release is refused."""
    with pytest.raises(RavanError) as refused, client.control(server.control) as stub:
        stub.SetRelease(iter(messages), timeout=20)
    assert client.releases(server.control) == []
    cause: Any = refused.value.__cause__
    assert isinstance(cause, grpc.RpcError)
    return code_of(cause)


def test_the_server_takes_nothing_but_what_the_operators_key_signed(known: Secured, tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    release, data = signed_archive(path, known.tls.operator(), "0.2.0", "x86_64"), path.read_bytes()
    body = pb.SetReleaseRequest(data=data)

    def begin(**changed: Any) -> pb.SetReleaseRequest:
        edited = Release()
        edited.CopyFrom(release)
        for name, value in changed.items():
            setattr(edited, name, value)
        return pb.SetReleaseRequest(release=edited)

    stranger = sign_archive(new_key(), Archive.from_proto(release))
    for change in (
        {"signature": stranger},
        {"signature": ""},
        {"version": "0.3.0"},
        {"machine": "aarch64"},
        {"size": release.size + 1},
        {"tree": "0" * 64},
        {"unpacked": release.unpacked + 1},
        {"sha256": "0" * 64},
        {"version": "../../0.3.0"},
        {"machine": "x86 64"},
        {"size": 2**40},
    ):
        assert send(known, begin(**change), body) == "bad-release", change
    assert send(known, begin(), pb.SetReleaseRequest(data=data[:-1])) == "incomplete"
    assert send(known, begin(), body, pb.SetReleaseRequest(data=b"x")) == "too-large"
    assert send(known, begin(), pb.SetReleaseRequest(data=data[:-1] + b"x")) == "wrong-hash"
    assert send(known, begin(), begin()) == "bad-request"
    assert send(known, body) == "bad-request"


def test_an_insecure_server_takes_no_release(bundle: Any, tmp_path: Path) -> None:
    import asyncio

    path = tmp_path / "a.tar.gz"
    release = signed_archive(path, new_key(), "0.2.0", "x86_64")

    async def play() -> None:
        async with hosting(tmp_path / "state", bundle):
            address = control_address(tmp_path / "state", "")
            with pytest.raises(RavanError, match="insecure and has no operator's key"):
                await asyncio.to_thread(client.set_release, address, path, release)

    asyncio.run(play())


def test_what_is_signed_is_this_archive_by_this_key_and_nothing_else(tmp_path: Path) -> None:
    key = new_key()
    release = signed_archive(tmp_path / "a.tar.gz", key, "0.2.0", "x86_64")
    archive = Archive.from_proto(release)
    assert is_signed_archive(key.public().hex(), release.signature, archive)
    assert not is_signed_archive(new_key().public().hex(), release.signature, archive)
    assert not is_signed_archive("", release.signature, archive)
    assert archive.size == (tmp_path / "a.tar.gz").stat().st_size


def test_nothing_is_signed_that_devices_would_not_unpack(tmp_path: Path) -> None:
    key = new_key()
    hostile = write_archive(tmp_path / "a.tar.gz", [program(), entry("ravan-edge/../evil", b"x")])
    with pytest.raises(ReleaseError, match="outside of ravan-edge"):
        sign_release(hostile, key, "0.2.0", "x86_64")
    sound = write_archive(tmp_path / "ravan-edge-0.2.0-linux-aarch64.tar.gz", [program()])
    named = sign_release(sound, key)
    assert (named.version, named.machine) == ("0.2.0", "aarch64")
    with pytest.raises(SettingsError, match="give --version and --machine"):
        sign_release(write_archive(tmp_path / "client.tar.gz", [program()]), key)
    with pytest.raises(ReleaseError, match="'latest' is no version"):
        sign_release(sound, key, "latest")
    with pytest.raises(ReleaseError, match="makes no sense"):
        sign_release(sound, key, "0.2.0", "x86-64 ")


def test_the_operators_commands_offer_list_and_withdraw(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "ravan-edge-0.2.0-linux-x86_64.tar.gz", [program()])
    state = tmp_path / "state"
    initialize(Tls.of(state), ["localhost"], renew=False)
    with secured(state) as server:
        where = ["--state", str(state), "--control", server.control.target]

        def run(*arguments: str) -> str:
            done = CliRunner().invoke(app, [*arguments, *where])
            assert done.exit_code == 0, done.output
            return done.output

        assert run("releases") == "devices are offered no release\n"
        assert "\n0.2.0 x86_64 " in run("release", str(archive))
        assert '"version": "0.2.0"' in run("releases", "--format", "json")
        assert run("releases", "--withdraw", "x86_64").endswith("devices are offered no release\n")

"""What several servers on one database must get right together."""

import asyncio
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from ravan.bundle import Bundle, open_bundle
from ravan.errors import EnvironmentProblem, SettingsError
from ravan.files import lock_folder
from ravan.rpc.keys import new_key, public_hex
from ravan.rpc.signing import signed
from server import client
from server.errors import WrongState
from server.peers import Deposed, leading
from server.place import Place
from server.postgres import open_engine
from server.records import Assignment, Device, LocalReport, Round, RoundState
from server.shared_storage import SharedStorage
from server.sql_peers import SqlPeers
from tests.attacks.calls import ENROLL, ROTATE, Answer, call, every_rpc
from tests.contract.conftest import RUN, A, B
from tests.e2e.processes import until
from tests.server.secured import Secured, secured

RPC = {rpc.path: rpc for rpc in every_rpc()}
CHECK_IN = "/ravan.v1.Fleet/CheckIn"
LEASE = 2.0


@pytest.fixture
def two(tmp_path: Path, database: str) -> Iterator[tuple[Secured, Secured]]:
    """Two servers with one authority, certificate and operator."""
    with ExitStack() as stack:
        one = stack.enter_context(secured(tmp_path / "one", database=database))
        shutil.copytree(one.tls.folder, tmp_path / "two" / "tls")
        yield one, stack.enter_context(secured(tmp_path / "two", database=database))


@pytest.fixture
def storages(tmp_path: Path, database: str) -> Iterator[tuple[SharedStorage, SharedStorage]]:
    opened = tuple(SharedStorage(database, tmp_path / name, LEASE) for name in ("one", "two"))
    yield opened  # type: ignore[misc]
    for storage in opened:
        storage.close()


def race(*calls: threading.Thread) -> None:
    for thread in calls:
        thread.start()
    for thread in calls:
        thread.join()


def test_a_call_made_at_one_server_is_a_replay_at_the_other(two: tuple[Secured, Secured]) -> None:
    device = two[0].enroll()
    body, answers = RPC[CHECK_IN].body(device, ""), list[Answer]()
    metadata = signed(device.key, CHECK_IN, body, time.time())

    def make(server: Secured) -> None:
        with server.channel(server.address) as channel:
            answers.append(call(channel, CHECK_IN, metadata, [body]))

    race(*(threading.Thread(target=make, args=(server,)) for server in (*two, *two)))
    assert sorted(answer.code for answer in answers) == ["bad-request", *["replayed-call"] * 3]  # it names no budget
    for server in two:
        until(
            lambda s=server: client.devices(s.control).refused == {"bad-request": 1, "replayed-call": 3},  # type: ignore[misc]
            "what both refused",
        )


def test_a_token_of_one_server_enrolls_one_device_at_any(two: tuple[Secured, Secured]) -> None:
    token, answers = two[0].token(), list[Answer]()

    def enroll(server: Secured) -> None:
        key = new_key()
        body = RPC[ENROLL].body(device, public_hex(key), token)
        with server.channel(server.address) as channel:
            answers.append(call(channel, ENROLL, signed(key, ENROLL, body, time.time()), [body]))

    device = two[1].enroll()
    race(*(threading.Thread(target=enroll, args=(server,)) for server in (*two, *two)))
    assert sorted(answer.code for answer in answers) == ["", *["used-token"] * 3]


def test_what_one_server_revokes_or_rotates_the_other_refuses_at_once(two: tuple[Secured, Secured]) -> None:
    revoked, rotated, key = two[0].enroll(), two[0].enroll(), new_key()
    client.revoke_device(two[0].control, revoked.device_id)
    with two[0].channel(two[0].address) as here, two[1].channel(two[1].address) as there:
        body = RPC[ROTATE].body(rotated, public_hex(key))
        assert call(here, ROTATE, signed(rotated.key, ROTATE, body, time.time()), [body]).status == "OK"
        for device, code in ((revoked, "revoked"), (rotated, "unknown-device")):
            body = RPC[CHECK_IN].body(device, "")
            assert call(there, CHECK_IN, signed(device.key, CHECK_IN, body, time.time()), [body]).code == code


def leads(peers: SqlPeers) -> bool:
    return peers.term is not None


def test_one_server_leads_and_writes_nothing_once_its_term_is_over(
    storages: tuple[SharedStorage, SharedStorage],
) -> None:
    async def scene() -> None:
        old, new = (storage.peers for storage in storages)
        await old.campaign()
        await new.campaign()
        assert [leads(peers) for peers in (old, new)] == [True, False]
        first = leading(old)
        first.create_run(RUN)
        first.open_round(Round("run-1", 1, RoundState.SELECTING, RUN.adapter, 110.0))
        await asyncio.sleep(LEASE + 0.1)  # as if paused
        await new.campaign()
        assert leads(new)
        with pytest.raises(Deposed):
            first.abandon("run-1", 1, 120.0)
        with pytest.raises(WrongState):  # the round is as it was
            leading(new).close_round("run-1", 1)
        await old.campaign()
        assert not leads(old)
        new.resign()
        await old.campaign()
        assert leads(old)

    asyncio.run(scene())


def test_a_bell_rings_at_the_others(storages: tuple[SharedStorage, SharedStorage]) -> None:
    async def scene() -> None:
        heard = [asyncio.Event(), asyncio.Event()]
        await storages[0].peers.campaign()
        keeping = [
            asyncio.create_task(storage.peers.keep(event.set)) for storage, event in zip(storages, heard, strict=True)
        ]
        for _ in range(50):
            await storages[0].peers.ring()
            await asyncio.sleep(0.02)
            if heard[1].is_set():
                break
        assert heard[1].is_set()
        assert not heard[0].is_set()
        for task in keeping:
            task.cancel()
        await asyncio.gather(*keeping, return_exceptions=True)

    asyncio.run(scene())


def test_bytes_that_a_new_part_names_outlive_the_old_round(
    storages: tuple[SharedStorage, SharedStorage], tmp_path: Path
) -> None:
    """One server drops an old round's updates while a device sends the same bytes to the other."""

    async def scene() -> None:
        one, two = storages
        one.state.create_run(RUN)
        for number in (1, 2):
            for device in (A, B):
                one.state.see_device(Device(device, "x", 1.0))
            one.state.open_round(Round("run-1", number, RoundState.SELECTING, RUN.adapter, 110.0))
            one.state.select("run-1", number, [A, B], 700.0)
        data = b"the same in both rounds"
        name = one.updates.put(data)
        old, new = (Assignment("run-1", n, A).received(name, len(data), LocalReport()) for n in (1, 2))
        await one.keep_update(old, data, tmp_path / "unused")
        for _ in range(5):
            await asyncio.gather(one.forget_update(name, "run-1", 1), two.keep_update(new, data, tmp_path / "unused"))
            assert one.updates.get(name) == data
        await one.forget_update(name, "run-1", 2)
        assert two.updates.names() == []

    asyncio.run(scene())


def test_bundles_and_examples_reach_a_server_that_never_saw_their_folder(
    storages: tuple[SharedStorage, SharedStorage], bundle: Bundle, tmp_path: Path
) -> None:
    one, two = (storage.shelf for storage in storages)
    photos = tmp_path / "photos" / "cat"
    photos.mkdir(parents=True)
    (photos / "1.png").write_bytes(b"one")
    (photos / "2.png").write_bytes(b"two")
    one.keep_bundle(bundle)
    name = one.keep_examples(photos.parent)
    shutil.rmtree(photos.parent)
    run = replace(RUN, bundle_id=bundle.manifest.bundle_id)
    found = two.bundle(run)
    assert open_bundle(found.folder).manifest == bundle.manifest
    assert (two.examples(name) / "cat" / "2.png").read_bytes() == b"two"
    (found.folder / "weights.bin").write_bytes(b"damaged")
    (two.examples(name) / "cat" / "2.png").unlink()
    assert open_bundle(two.bundle(run).folder).manifest == bundle.manifest
    assert (two.examples(name) / "cat" / "2.png").read_bytes() == b"two"


def test_a_database_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"The database of --state can't be used \(.*\): start it"):
        open_engine("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(EnvironmentProblem) as failed:
        SharedStorage("postgresql://nobody@127.0.0.1:1/none", tmp_path, LEASE)
    lock_folder(tmp_path, "server").close()  # free again, though what failed is still at hand
    assert failed.tb
    with pytest.raises(SettingsError, match="takes a folder or postgresql://"):
        Place.of("mysql://root@localhost/x")
    assert str(Place.of("postgresql://user:secret@db.example/ravan")) == "postgresql://db.example/ravan"


def test_a_database_that_answers_before_its_disk_has_it_is_refused(postgres: str) -> None:
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute("ALTER DATABASE postgres SET synchronous_commit = off")
        with pytest.raises(EnvironmentProblem, match="synchronous_commit off"):
            open_engine(postgres)
        db.execute("ALTER DATABASE postgres RESET synchronous_commit")

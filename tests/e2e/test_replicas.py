"""Three servers behind one set of devices, on a real PostgreSQL: killed and paused, they lose nothing."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from protos.ravan.v1 import control_pb2 as pb
from ravan.bundle import Bundle
from ravan.runtime.adapter import read_adapter
from ravan.update import encode
from server import client
from server.place import Place
from tests.conftest import sentences, write_rows
from tests.e2e.processes import Fleet, until
from tests.e2e.replicas import LEASE, Replicas, Scripted

IDS = tuple(f"{number:032x}" for number in range(1, 5))
ROUNDS = 3


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Fleet]:
    running = Fleet(tmp_path)
    yield running
    running.end()


def create(servers: Replicas, name: str, bundle: Bundle, rounds: int = ROUNDS) -> None:
    held_out = write_rows(servers.processes.folder / "held-out.jsonl", sentences(9, 99))
    options = {"clients_per_round": len(IDS), "min_updates": len(IDS), "poll_min": 0.01, "poll_max": 0.02}
    paths = {"bundle": str(bundle.folder), "evaluation": str(held_out)}
    client.create_run(servers.control(name), {"rounds": rounds, **options, **paths})
    held_out.unlink()  # other servers must not need it


def finished(servers: Replicas, name: str) -> pb.Run:
    for run in client.watch(servers.control(name), ""):
        if run.state == pb.RUN_STATE_FINISHED:
            return run
    raise AssertionError


def exported(servers: Replicas, name: str, bundle: Bundle) -> bytes:
    """The bytes of the last adapter's values."""
    out = servers.processes.folder / f"{name}.safetensors"
    out.write_bytes(client.export_adapter(servers.control(name), "", best=False))
    return encode(bundle.manifest.adapter, read_adapter(out, bundle.manifest.adapter))


def undisturbed(processes: Fleet, bundle: Bundle) -> bytes:
    """What one server with a folder makes of the same updates."""
    server = Replicas(processes, "")
    server.serve("alone")
    create(server, "alone", bundle)
    with closing(Scripted(server, bundle.manifest.adapter, IDS)) as devices:
        for _ in range(ROUNDS):
            for device, task in devices.tasks().items():
                devices.upload(device, task, devices.update(device, task))
    finished(server, "alone")
    return exported(server, "alone", bundle)


def test_killed_servers_lose_nothing_and_the_adapter_is_that_of_an_undisturbed_one(
    processes: Fleet, database: str, bundle: Bundle
) -> None:
    servers = Replicas(processes, database)
    names = ("a", "b", "c")
    servers.serve(*names)
    create(servers, "a", bundle)
    with closing(Scripted(servers, bundle.manifest.adapter, IDS)) as devices:
        first = devices.tasks()
        made = {device: devices.update(device, task) for device, task in first.items()}
        receipts = {device: devices.upload(device, first[device], made[device]) for device in IDS[:2]}
        leader = servers.leader()
        servers.kill(leader)  # and with it whatever it held in memory
        receipts[IDS[2]] = devices.upload(IDS[2], first[IDS[2]], made[IDS[2]])
        servers.kill(next(name for name in servers.alive() if name != leader))
        assert devices.upload(IDS[0], first[IDS[0]], made[IDS[0]]) == receipts[IDS[0]]
        receipts[IDS[3]] = devices.upload(IDS[3], first[IDS[3]], made[IDS[3]])
        assert len(set(receipts.values())) == len(IDS)
        second = devices.tasks()
        servers.serve(*(set(names) - set(servers.alive())))
        made = {device: devices.update(device, task) for device, task in second.items()}
        with ThreadPoolExecutor(len(IDS)) as pool:
            sending = [pool.submit(devices.upload, device, second[device], made[device]) for device in IDS]
            servers.kill(servers.leader())  # in the middle of uploads, of which some may close the round
            assert len({upload.result() for upload in sending}) == len(IDS)
        for device, task in devices.tasks().items():
            devices.upload(device, task, devices.update(device, task))
    survivor = servers.alive()[0]
    run = finished(servers, survivor)
    assert [r.state for r in run.rounds] == [pb.ROUND_STATE_PUBLISHED] * ROUNDS
    assert all(r.received == r.selected == len(IDS) for r in run.rounds)
    assert all(r.evaluation.examples == 9 for r in run.rounds)
    assert exported(servers, survivor, bundle) == undisturbed(processes, bundle)
    for name in servers.alive():
        servers.kill(name)
    (shown,), _, refused = client.overview(servers.control(survivor), Place.of(database))
    assert (shown, refused) == (run, None)


def test_a_leader_that_was_paused_is_deposed_and_publishes_nothing_twice(
    processes: Fleet, database: str, bundle: Bundle
) -> None:
    servers = Replicas(processes, database)
    servers.serve("a")
    create(servers, "a", bundle, rounds=2)
    with closing(Scripted(servers, bundle.manifest.adapter, IDS)) as devices:
        first = devices.tasks()
        made = {device: devices.update(device, task) for device, task in first.items()}
        servers.serve("b")
    with closing(
        Scripted(Replicas(processes, database, {"b": servers.ports["b"]}), bundle.manifest.adapter, IDS)
    ) as devices:
        assert servers.leader() == "a"
        processes.processes["a"].send_signal(signal.SIGSTOP)
        for device in IDS:
            devices.upload(device, first[device], made[device])
        second = devices.tasks()  # of a round that "b" opened
        processes.processes["a"].send_signal(signal.SIGCONT)
        until(lambda: "deposed" in servers.log("a"), "the old leader to notice")
        time.sleep(LEASE)
        assert servers.leader() == "b"
        for device, task in second.items():
            devices.upload(device, task, devices.update(device, task))
    run = finished(servers, "a")
    assert [(r.number, r.state) for r in run.rounds] == [(n, pb.ROUND_STATE_PUBLISHED) for n in (1, 2)]

"""A device that trains with onnxruntime-training: beside others in a federation, and after its runtime has crashed."""

import os
import signal
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from edge.device import Device
from edge.fleet_client import FleetClient
from edge.foreman import Foreman
from edge.home import Home
from edge.job import DataOptions, Priority, WorkerSettings
from edge.options import DeviceOptions
from edge.progress import Events
from edge.runtimes import Runtime, Runtimes
from edge.setting_out import equipment
from protos.ravan.v1 import fleet_pb2_grpc as rpc
from ravan.bundle import Bundle
from ravan.bundle_files import ARTIFACTS
from ravan.rpc.plan import TrainingPlan
from tests.conftest import sentences, write_rows
from tests.e2e.processes import Fleet, until
from tests.edge.test_device import Scripted


def parent_of(folder: Path) -> int:
    """Of a process, by its folder in /proc; 0 for one that has ended."""
    try:
        return int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def ort_processes() -> list[int]:
    """Processes of onnxruntime-training that a worker of this one has started."""
    found, mine = [], {os.getpid()}
    mine |= {int(p.name) for p in Path("/proc").glob("[0-9]*") if parent_of(p) in mine}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:  # it has just ended
            continue
        if b"ravan.runtime.ort_process" in command and parent_of(folder) in mine:
            found.append(int(folder.name))
    return found


@pytest.fixture
def scene(ort_bundle: Bundle, ort_python: Path, tmp_path: Path, data: Path) -> Iterator[tuple[Scripted, Device]]:
    """A server that asks for the same task again and again, and a device of this process."""
    fleet, stop = Scripted(ort_bundle, TrainingPlan(local_steps=100_000, batch_size=2)), threading.Event()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    rpc.add_FleetServicer_to_server(fleet, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    runtimes = Runtimes(Runtime.ORT_TRAINING, ort_python)
    with closing(Home(tmp_path / "home")) as home:
        ours = WorkerSettings(home.folder, 1, wanted=runtimes.wanted, ort_python=ort_python, priority=Priority.NORMAL)
        foreman = Foreman(ours)
        client = FleetClient(f"127.0.0.1:{port}", home.device_id("one"), stop)
        options = DeviceOptions("one", DataOptions(data), until_finished=True)
        device = Device(options, client, home, foreman, equipment(runtimes), Events(), stop)
        timer = threading.Timer(60, stop.set)
        timer.start()
        yield fleet, device
        timer.cancel()
        stop.set()
        client.close()
        foreman.close()
    server.stop(None).wait()


def test_a_crash_costs_one_local_run_and_not_the_client(scene: tuple[Scripted, Device]) -> None:
    fleet, device = scene
    with futures.ThreadPoolExecutor(1) as threads:
        running = threads.submit(device.run)
        until(ort_processes, "the runtime's process")
        fleet.plan = TrainingPlan(local_steps=2, batch_size=2)
        os.kill(ort_processes()[0], signal.SIGKILL)
        running.result()
    assert [failure.code for failure in fleet.failures] == ["runtime"]
    assert fleet.uploads == 1


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Fleet]:
    running = Fleet(tmp_path)
    yield running
    running.end()


def test_both_runtimes_take_part_in_one_federation(
    processes: Fleet, ort_bundle: Bundle, ort_python: Path, data: Path
) -> None:
    """The device with onnxruntime-training has no torch, and the other one downloads no artifacts."""
    server = processes.serve("--until-finished")
    processes.create(
        ort_bundle.folder,
        evaluation=write_rows(processes.folder / "held-out.jsonl", sentences(90, 99)),
        rounds=3,
        clients_per_round=2,
        min_devices=2,
        local_steps=20,
        batch_size=8,
        learning_rate=0.01,
        saved_learning_rate=0.01,
        poll_min=0.05,
        poll_max=0.1,
    )
    other = write_rows(processes.folder / "other.jsonl", sentences(60, 2))
    processes.device("stock", other)
    options = ("--runtime", "ort-training", "--threads", "1")
    processes.device("official", data, options=options, python=str(ort_python))
    processes.finished()
    assert server.wait(30) == 0
    status: Any = processes.status()
    rounds = status["runs"][0]["rounds"]
    assert [r["received"] for r in rounds] == [2, 2, 2]
    assert rounds[-1]["evaluation"]["loss"] < 0.8 * status["runs"][0]["initial"]["loss"]
    assert '"runtime": "ort-training"' in processes.log("official")
    assert '"runtime": "onnxruntime"' in processes.log("stock")
    assert {"data", "other"} == {d["name"] for d in status["devices"] if "onnxruntime 1." in d["software"]}
    bundle_id = ort_bundle.manifest.bundle_id
    for name in ARTIFACTS:
        assert (processes.folder / "official" / "bundles" / bundle_id / name).exists()
        assert not (processes.folder / "stock" / "bundles" / bundle_id / name).exists()

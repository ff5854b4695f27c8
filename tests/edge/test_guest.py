"""What a device does for its owner beside training: caps, limits and records, on a real server and real processes."""

import hashlib
import sys
import threading
import time
from pathlib import Path

import grpc
import pytest

from edge.bandwidth import Bandwidth
from edge.foreman import Foreman
from edge.job import DataOptions, Job, WorkerSettings
from edge.machine import family, held_memory
from edge.upload_log import UPLOADS, read_uploads
from ravan.bundle import INITIAL
from ravan.bundle_files import MANIFEST
from ravan.errors import EnvironmentProblem
from tests.edge.test_bandwidth import Waits
from tests.edge.test_device import Scene, refusing, run_for, scene

__all__ = ["scene"]  # the fixture
HUNGRY = """
import sys, time
sys.stdin.readline(), sys.stdin.readline()
held = bytearray(b"x") * (300 << 20)
time.sleep(60)
"""


def home_of(scene: Scene) -> Path:
    return scene[1]._home.folder


def test_every_byte_of_every_transfer_counts_against_the_cap(scene: Scene) -> None:
    fleet, device, stop = scene
    waits = Waits()
    rate = 100_000.0
    device._client._bandwidth = Bandwidth(rate, waits, lambda: waits.now)
    run_for(device, stop, 20)
    sizes = [fleet.bundle.path(name).stat().st_size for name in (MANIFEST, INITIAL)]
    fetched = fleet.bundle.manifest.download_size + sum(sizes)
    assert waits.now == pytest.approx((fetched + len(fleet.sent)) / rate, abs=1)
    assert waits.now > 1


def test_every_upload_is_on_record_with_its_heads_and_its_receipt(scene: Scene) -> None:
    fleet, device, stop = scene
    run_for(device, stop, 20)
    (only,) = read_uploads(home_of(scene))
    spec = fleet.bundle.manifest.adapter
    assert only["sha256"] == hashlib.sha256(fleet.sent).hexdigest()
    assert only["bytes"] == len(fleet.sent)
    assert only["heads"] == {layer.name: list(range(spec.heads)) for layer in spec.layers}
    assert (only["outcome"], only["receipt"], only["wire"]) == ("received", "receipt", "fp32")


def test_a_refused_upload_is_on_record_too(scene: Scene) -> None:
    fleet, device, stop = scene
    fleet.refuse_upload = refusing(grpc.StatusCode.FAILED_PRECONDITION, "round-closed")
    run_for(device, stop, 4)
    assert {upload["outcome"] for upload in read_uploads(home_of(scene))} >= {"round-closed"}


def test_what_cannot_be_put_on_record_is_not_sent(scene: Scene) -> None:
    fleet, device, stop = scene
    record = home_of(scene) / UPLOADS
    record.symlink_to("/dev/full")  # a full disk
    ended = threading.Thread(target=run_for, args=(device, stop, 30))
    ended.start()
    end = time.monotonic() + 20
    while device._desk.finished is None and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.5)
    assert fleet.uploads == 0
    assert device._desk.finished is not None
    record.unlink()
    ended.join()
    assert fleet.uploads == 1
    assert [upload["outcome"] for upload in read_uploads(home_of(scene))] == ["received"]


def test_training_that_holds_too_much_memory_is_ended(tmp_path: Path) -> None:
    foreman = Foreman(WorkerSettings(tmp_path, memory_mb=200), command=[sys.executable, "-c", HUNGRY])
    job = Job(b"", "0" * 32, "one", tmp_path, tmp_path, tmp_path, tmp_path, 1.0, DataOptions(tmp_path))
    seen: list[int] = []

    def note() -> None:
        while foreman._process is None:
            time.sleep(0.001)
        seen.append(foreman._process.pid)

    threading.Thread(target=note).start()
    with pytest.raises(EnvironmentProblem, match=r"Training held 3\d\d MB, more than --memory-mb 200, and was ended"):
        foreman.train(job, threading.Event(), time.monotonic() + 30, lambda step, loss: None)
    assert [held_memory(pid) for pid in family(seen[0])] == [0]

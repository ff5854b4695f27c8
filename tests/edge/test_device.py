"""A device in a world that does not always answer well: it waits, says why, and goes on."""

import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from edge import foreman
from edge.device import Device
from edge.errors import Stopped
from edge.fleet_client import FleetClient
from edge.foreman import Foreman
from edge.home import Home
from edge.job import FAILED, FINISHED, WORKER_LOCK, DataOptions, Priority, WorkerSettings
from edge.left_out import LeftOut
from edge.options import DeviceOptions
from edge.progress import Events
from edge.runtimes import Runtimes
from edge.setting_out import equipment
from edge.strength import Strength
from protos.ravan.v1 import fleet_pb2 as pb
from protos.ravan.v1 import fleet_pb2_grpc as rpc
from ravan.bundle import INITIAL, Bundle
from ravan.errors import DiskFull
from ravan.files import holder
from ravan.rpc.plan import TrainingPlan, plan_to_proto
from ravan.rpc.transfer import CODE_KEY, chunks
from ravan.spread import Spread
from ravan.update import decode
from ravan.wire import WireFormat, unpack
from tests.conftest import sentences, write_rows
from tests.e2e.processes import until


class Scripted(rpc.FleetServicer):
    """A real gRPC server that always gives the same task and answers uploads as told."""

    def __init__(self, bundle: Bundle, plan: TrainingPlan) -> None:
        self.bundle, self.plan = bundle, plan
        self.check_ins: list[float] = []
        self.uploads, self.examples, self.sent = 0, 0, b""
        self.fetched: list[str] = []
        self.able, self.seconds = pb.Capabilities(), 0.0
        self.failures: list[pb.ReportFailureRequest] = []
        self.refuse_check_in: Callable[[Any], None] = lambda context: None
        self.refuse_upload: Callable[[Any], None] = lambda context: None
        self.done = False

    def CheckIn(self, request: pb.CheckInRequest, context: Any) -> pb.CheckInResponse:
        self.check_ins.append(time.monotonic())
        self.able = request.capabilities
        self.refuse_check_in(context)
        if self.done:
            return pb.CheckInResponse(wait=pb.Wait(reason=pb.WAIT_REASON_RUN_FINISHED))
        adapter = self.bundle.manifest.files[INITIAL].sha256
        binding = pb.Binding(run_id="run", round=1, bundle_id=self.bundle.manifest.bundle_id, base_adapter=adapter)
        task = pb.Task(binding=binding, plan=plan_to_proto(self.plan), deadline_seconds=self.seconds)
        return pb.CheckInResponse(task=task)

    def FetchBundle(self, request: pb.FetchBundleRequest, context: Any) -> Iterator[pb.FetchBundleResponse]:
        self.fetched.append(request.file)
        for piece in chunks((self.bundle.folder / request.file).read_bytes()[request.offset :]):
            yield pb.FetchBundleResponse(data=piece)

    def FetchAdapter(self, request: pb.FetchAdapterRequest, context: Any) -> Iterator[pb.FetchAdapterResponse]:
        for piece in chunks(self.bundle.path(INITIAL).read_bytes()[request.offset :]):
            yield pb.FetchAdapterResponse(data=piece)

    def AskUpload(self, request: pb.AskUploadRequest, context: Any) -> pb.AskUploadResponse:
        return pb.AskUploadResponse()

    def UploadUpdate(self, request_iterator: Iterator[pb.UploadUpdateRequest], context: Any) -> pb.UploadUpdateResponse:
        self.examples = next(request_iterator).header.report.examples
        self.sent = b"".join(message.data for message in request_iterator)
        self.uploads += 1
        self.refuse_upload(context)
        self.done = True
        return pb.UploadUpdateResponse(receipt="receipt")

    def ReportFailure(self, request: pb.ReportFailureRequest, context: Any) -> pb.ReportFailureResponse:
        self.failures.append(request)
        return pb.ReportFailureResponse()


def refusing(status: grpc.StatusCode, code: str = "") -> Callable[[Any], None]:
    def refuse(context: Any) -> None:
        if code:
            context.set_trailing_metadata(((CODE_KEY, code),))
        context.abort(status, "No.")

    return refuse


@pytest.fixture
def scene(bundle: Bundle, tmp_path: Path) -> Iterator[tuple[Scripted, Device, threading.Event]]:
    fleet, stop = Scripted(bundle, TrainingPlan(local_steps=1, batch_size=2)), threading.Event()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    rpc.add_FleetServicer_to_server(fleet, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    home = Home(tmp_path / "home")
    client = FleetClient(f"127.0.0.1:{port}", home.device_id("one"), stop)
    data = write_rows(tmp_path / "data.jsonl", sentences(6, 0))
    options = DeviceOptions("one", DataOptions(data, held_out=0.3), until_finished=True)
    trains = Foreman(WorkerSettings(home.folder, threads=1, priority=Priority.NORMAL, checkpoint_seconds=0.05))
    yield fleet, Device(options, client, home, trains, equipment(Runtimes()), Events(), stop), stop
    trains.close()
    client.close()
    home.close()
    server.stop(None).wait()


Scene = tuple[Scripted, Device, threading.Event]


def run_for(device: Device, stop: threading.Event, seconds: float) -> None:
    """Runs a device until it ends or the time is over."""
    timer = threading.Timer(seconds, stop.set)
    timer.start()
    try:
        device.run()
    except Stopped:  # in the middle of a call
        assert stop.is_set()
    finally:
        timer.cancel()


@contextmanager
def stopped_after(condition: Callable[[], object], stop: threading.Event, seconds: float = 0) -> Iterator[None]:
    """Sets ``stop`` so long after something has become true."""

    def end() -> None:
        until(condition, "what the device is to do")
        time.sleep(seconds)
        stop.set()

    ending = threading.Thread(target=end)
    ending.start()
    yield
    ending.join()


def run_for_one_upload(fleet: Scripted, device: Device, stop: threading.Event) -> None:
    """Runs a device until it has tried to upload, and a moment longer."""
    with stopped_after(lambda: fleet.uploads, stop, 0.5):
        run_for(device, stop, 60)


def test_a_task_is_done_and_the_device_ends_with_the_run(scene: Scene) -> None:
    fleet, device, stop = scene
    run_for(device, stop, 20)
    assert fleet.uploads == 1
    assert not stop.is_set()
    assert fleet.examples == 4  # of six, for the other two are held out


def test_a_refused_check_in_does_not_end_a_device(scene: Scene) -> None:
    fleet, device, stop = scene
    fleet.refuse_check_in = refusing(grpc.StatusCode.FAILED_PRECONDITION, "bad-bundle")
    threading.Timer(0.7, lambda: setattr(fleet, "refuse_check_in", lambda context: None)).start()
    run_for(device, stop, 20)
    assert fleet.uploads == 1
    assert len(fleet.check_ins) < 12


@pytest.mark.parametrize("status", [grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE])
def test_a_server_or_proxy_that_stumbles_is_tried_again(scene: Scene, status: grpc.StatusCode) -> None:
    fleet, device, stop = scene
    fleet.refuse_check_in = refusing(status)
    threading.Timer(0.3, lambda: setattr(fleet, "refuse_check_in", lambda context: None)).start()
    run_for(device, stop, 20)
    assert fleet.uploads == 1


def test_refused_work_is_given_back_and_not_repeated_in_a_tight_loop(scene: Scene) -> None:
    fleet, device, stop = scene
    fleet.refuse_upload = refusing(grpc.StatusCode.INVALID_ARGUMENT, "not-finite")
    with stopped_after(lambda: fleet.failures, stop, 3):
        run_for(device, stop, 60)
    assert fleet.uploads == len(fleet.failures) <= 5
    assert {failure.code for failure in fleet.failures} == {"not-finite"}


def test_what_a_coded_upload_leaves_out_is_kept_once_the_server_has_the_rest(scene: Scene, tmp_path: Path) -> None:
    fleet, device, stop = scene
    fleet.plan = replace(fleet.plan, wire=WireFormat.INT8)
    spec, bundle_id = fleet.bundle.manifest.adapter, fleet.bundle.manifest.bundle_id
    fleet.refuse_upload = refusing(grpc.StatusCode.FAILED_PRECONDITION, "round-closed")
    run_for_one_upload(fleet, device, stop)
    refused = fleet.sent
    assert list((tmp_path / "home/devices").glob("*.left-out")) == []
    stop.clear()
    fleet.refuse_upload = lambda context: None
    run_for(device, stop, 20)
    base = decode(spec, fleet.bundle.path(INITIAL).read_bytes())
    arrived = unpack(spec, WireFormat.INT8, base, fleet.sent)
    assert fleet.sent == refused  # the same local run, to the bit, with the same rest
    (kept,) = (tmp_path / "home/devices").glob("*.left-out")
    rest = LeftOut(kept, "run", bundle_id).read(spec)
    assert rest.sH.any()
    largest = np.abs(arrived.sH - base.sH).max(axis=(1, 2))
    assert (np.abs(rest.sH).max(axis=(1, 2)) <= largest / 254 * 1.01 + 1e-9).all()


def test_a_finished_update_outlives_the_client_and_is_never_trained_again(scene: Scene, tmp_path: Path) -> None:
    fleet, device, stop = scene
    fleet.refuse_upload = refusing(grpc.StatusCode.UNAUTHENTICATED, "future-call")  # until its clock is set
    run_for_one_upload(fleet, device, stop)
    refused = fleet.sent
    (kept,) = (tmp_path / "home/work").glob("*/finished")
    fleet.refuse_upload = lambda context: None
    stop.clear()
    device._foreman._command = ["false"]  # nobody could train now
    device._foreman.close()
    run_for(device, stop, 20)
    assert fleet.sent == refused
    assert not kept.exists()
    assert fleet.failures == []


def test_a_killed_worker_costs_a_moment_and_not_the_task(scene: Scene, tmp_path: Path) -> None:
    fleet, device, stop = scene
    fleet.plan = TrainingPlan(local_steps=3000, batch_size=2)
    home = tmp_path / "home"

    def kill() -> None:
        until(lambda: list(home.glob("work/*/checkpoint")), "a checkpoint")
        pid = holder(home, WORKER_LOCK)
        assert pid  # 0 would be this very test's group
        os.kill(pid, signal.SIGKILL)

    killing = threading.Thread(target=kill)
    killing.start()
    run_for(device, stop, 60)
    killing.join()
    assert fleet.uploads == 1
    assert fleet.failures == []
    assert len(fleet.check_ins) == 3  # the task, the same again, and the end of the run


def test_a_task_waits_while_there_is_no_room_to_download_its_bundle(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet, device, stop = scene
    real, free = shutil.disk_usage, [0, 0]

    def usage(path: Path) -> Any:
        return real(path)._replace(free=free.pop(0)) if free else real(path)

    monkeypatch.setattr("edge.quota.shutil.disk_usage", usage)
    run_for(device, stop, 60)
    assert free == []
    assert (fleet.uploads, fleet.failures) == (1, [])


def test_a_task_waits_while_there_is_no_room_to_train(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a worker says that meets a full disk; the checkpoints and updates of a real one wait by themselves."""
    fleet, device, stop = scene
    real, full = foreman._is_over, ["full"]

    def is_over(message: dict[str, Any]) -> bool:
        if message["event"] == FINISHED and full:
            full.pop()
            message = {"event": FAILED, "code": DiskFull.code, "reason": "No space left on device."}
        return real(message)

    monkeypatch.setattr(foreman, "_is_over", is_over)
    run_for(device, stop, 60)
    assert full == []
    assert (fleet.uploads, fleet.failures) == (1, [])


def test_a_late_update_is_dropped_without_a_report(scene: Scene) -> None:
    fleet, device, stop = scene
    fleet.refuse_upload = refusing(grpc.StatusCode.FAILED_PRECONDITION, "round-closed")
    run_for_one_upload(fleet, device, stop)
    assert fleet.uploads >= 1
    assert fleet.failures == []


def test_a_run_that_diverges_is_given_back(scene: Scene) -> None:
    fleet, device, stop = scene
    fleet.plan = TrainingPlan(local_steps=3, batch_size=2, learning_rate=1e38, saved_learning_rate=1e38, clip_norm=0)
    with stopped_after(lambda: fleet.failures, stop):
        run_for(device, stop, 60)
    assert fleet.uploads == 0
    assert fleet.failures[0].code == "diverged"
    assert str(Path.home()) not in fleet.failures[0].reason


def test_a_server_that_does_not_answer_does_not_hold_up_the_end() -> None:
    """A listening socket that nobody serves: the call hangs, and closing the client ends it."""
    stop, ended = threading.Event(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = FleetClient(f"127.0.0.1:{silent.getsockname()[1]}", "0" * 32, stop)

        def call() -> None:
            with pytest.raises(Stopped, match="stopping"):
                client.check_in("one", pb.Capabilities(head_budget=1.0))
            ended.set()

        caller = threading.Thread(target=call)
        caller.start()
        time.sleep(0.5)
        assert not ended.is_set()
        stop.set()
        client.close()
        caller.join(10)
        assert ended.is_set()


def layers_sent(fleet: Scripted) -> list[int]:
    """How many heads of each layer the upload carries."""
    return [int(count) for count in decode(fleet.bundle.manifest.adapter, fleet.sent).heads.sum(axis=1)]


def test_a_budget_for_the_top_layers_fetches_and_trains_what_it_needs_alone(scene: Scene) -> None:
    fleet, device, stop = scene
    fleet.plan = replace(fleet.plan, head_spread=Spread.TOP_LAYERS)
    device._options = replace(device._options, head_budget=0.5)
    run_for(device, stop, 60)
    assert [name for name in fleet.fetched if "top" in name] == ["train-top-2.onnx"]
    assert layers_sent(fleet) == [0, 0, 4, 4]
    assert not fleet.able.step_times  # the user decided


def test_a_slow_device_says_so_and_trains_what_it_has_time_for(scene: Scene) -> None:
    fleet, device, stop = scene
    fleet.plan, fleet.seconds = replace(fleet.plan, head_spread=Spread.TOP_LAYERS), 30.0
    home, bundle_id = device._home.folder, fleet.bundle.manifest.bundle_id
    Strength({1.0: 1000.0}, memory=1 << 29).write(home, bundle_id)
    run_for(device, stop, 60)
    assert [(t.bundle_id, t.depth, t.seconds_per_example) for t in fleet.able.step_times][:1] == [
        (bundle_id, 1.0, 1000.0)
    ]
    assert layers_sent(fleet) == [0, 0, 0, 4]


def test_a_device_measures_itself_before_its_first_run_and_learns_from_it(scene: Scene) -> None:
    fleet, device, stop = scene
    fleet.plan = replace(fleet.plan, head_spread=Spread.TOP_LAYERS, local_steps=3)
    fleet.seconds = 1000.0
    run_for(device, stop, 60)
    assert layers_sent(fleet) == [4, 4, 4, 4]
    (time_told,) = fleet.able.step_times
    assert time_told.depth == 1.0
    assert 0 < time_told.seconds_per_example < 10
    assert fleet.able.available_memory > 0

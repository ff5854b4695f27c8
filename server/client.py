"""The operator's side of the Control service, and the same view of a server that is not running."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import grpc

from protos.ravan.v1 import control_pb2 as pb
from protos.ravan.v1 import control_pb2_grpc as rpc
from ravan.errors import RavanError, Unreachable
from ravan.rpc.transfer import CODE_KEY, CONTROL_OPTIONS
from server.report import report_devices, report_run
from server.sql_state import DATABASE, open_sqlite

CALL_SECONDS = 60.0
CREATE_SECONDS = 900.0  # a large bundle is hashed and its held-out examples are read


@contextmanager
def control(address: str) -> Iterator[rpc.ControlStub]:
    """A stub for the Control service; gRPC's errors become sentences.

    Raises:
        Unreachable: no server answers at the address.
        RavanError: the server's own sentence.
    """
    with grpc.insecure_channel(address, options=CONTROL_OPTIONS) as channel:
        try:
            yield rpc.ControlStub(channel)
        except grpc.RpcError as error:
            raise _explain(error, address) from error


def create_run(address: str, settings: dict[str, Any]) -> pb.Run:
    """Starts a run."""
    with control(address) as stub:
        return stub.CreateRun(pb.CreateRunRequest(settings_json=json.dumps(settings)), timeout=CREATE_SECONDS).run


def set_state(address: str, run_id: str, state: pb.RunState) -> pb.Run:
    """Pauses, resumes or stops a run."""
    with control(address) as stub:
        return stub.SetRunState(pb.SetRunStateRequest(run_id=run_id, state=state), timeout=CALL_SECONDS).run


def watch(address: str, run_id: str) -> Iterator[pb.Run]:
    """A run's status after every change, until it ends."""
    with control(address) as stub:
        for message in stub.WatchRun(pb.WatchRunRequest(run_id=run_id)):
            yield message.run


def export_adapter(address: str, run_id: str, *, best: bool) -> bytes:
    """The best or last adapter as the bytes of a safetensors file."""
    with control(address) as stub:
        messages = stub.ExportAdapter(pb.ExportAdapterRequest(run_id=run_id, best=best), timeout=CALL_SECONDS)
        return b"".join(message.data for message in messages)


def overview(address: str, state: Path) -> tuple[list[pb.Run], list[pb.Device], bool]:
    """Runs, devices, and whether a server is running; of one that is not, read from its state folder."""
    try:
        with control(address) as stub:
            runs = stub.ListRuns(pb.ListRunsRequest(), timeout=CALL_SECONDS).runs
            devices = stub.ListDevices(pb.ListDevicesRequest(), timeout=CALL_SECONDS).devices
            return list(runs), list(devices), True
    except Unreachable:
        if not (state / DATABASE).is_file():
            raise
    stored = open_sqlite(state)
    try:
        return [report_run(stored, run) for run in stored.runs()], report_devices(stored), False
    finally:
        stored.close()


def _explain(error: grpc.RpcError, address: str) -> RavanError:
    call = cast(grpc.Call, error)
    refused = dict(call.trailing_metadata() or ()).get(CODE_KEY)
    if call.code() is grpc.StatusCode.UNAVAILABLE and not refused:
        return Unreachable(f"No server answers at {address}: start one with ravan-server serve, or set --control.")
    if call.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return RavanError(f"The server at {address} is too busy to answer: try again.")
    return RavanError(call.details() or str(call.code()))

"""The operator's side of the Control service, and the same view of a server that is not running."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from protos.ravan.v1 import control_pb2 as pb
from protos.ravan.v1 import control_pb2_grpc as rpc
from protos.ravan.v1.releases_pb2 import Release
from ravan.errors import NotTrusted, RavanError, Unreachable
from ravan.rpc.address import tls_problem
from ravan.rpc.refusal import code_of, sentence_of, status_of
from ravan.rpc.signing import Signing, signed_channel
from ravan.rpc.transfer import CHUNK, CONTROL_OPTIONS
from server.control_address import ControlAddress
from server.place import Place
from server.signatures import signature_of

CALL_SECONDS = 60.0
CREATE_SECONDS = 900.0  # a large bundle is hashed and its held-out examples are read


@contextmanager
def control(address: ControlAddress) -> Iterator[rpc.ControlStub]:
    """A stub for the Control service; gRPC's errors become sentences.

    Raises:
        Unreachable: no server answers at the address.
        RavanError: the server's own sentence.
    """
    with _channel(address) as channel:
        try:
            yield rpc.ControlStub(channel)
        except grpc.RpcError as error:
            raise _explain(error, address) from error


def _channel(address: ControlAddress) -> grpc.Channel:
    """A socket is as it is; any other address speaks TLS, and takes calls signed with the operator's key."""
    if address.is_socket:
        return grpc.insecure_channel(address.target, options=CONTROL_OPTIONS)
    ca = address.tls.trusted()
    return signed_channel(address.target, ca, Signing(address.tls.operator()), CONTROL_OPTIONS)


def create_run(address: ControlAddress, settings: dict[str, Any]) -> pb.Run:
    """Starts a run, its bundle signed here if the operator's key and the bundle are."""
    signature = signature_of(address.tls, settings.get("bundle"))
    with control(address) as stub:
        request = pb.CreateRunRequest(settings_json=json.dumps(settings), bundle_signature=signature)
        return stub.CreateRun(request, timeout=CREATE_SECONDS).run


def set_state(address: ControlAddress, run_id: str, state: pb.RunState) -> pb.Run:
    """Pauses, resumes or stops a run."""
    with control(address) as stub:
        return stub.SetRunState(pb.SetRunStateRequest(run_id=run_id, state=state), timeout=CALL_SECONDS).run


def watch(address: ControlAddress, run_id: str) -> Iterator[pb.Run]:
    """A run's status after every change, until it ends."""
    with control(address) as stub:
        for message in stub.WatchRun(pb.WatchRunRequest(run_id=run_id)):
            yield message.run


def export_adapter(address: ControlAddress, run_id: str, *, best: bool) -> bytes:
    """The best or last adapter as the bytes of a safetensors file."""
    with control(address) as stub:
        messages = stub.ExportAdapter(pb.ExportAdapterRequest(run_id=run_id, best=best), timeout=CALL_SECONDS)
        return b"".join(message.data for message in messages)


def devices(address: ControlAddress) -> pb.ListDevicesResponse:
    """All devices, and how often which calls were refused."""
    with control(address) as stub:
        return stub.ListDevices(pb.ListDevicesRequest(), timeout=CALL_SECONDS)


def create_tokens(address: ControlAddress, count: int, valid_seconds: float) -> pb.CreateTokensResponse:
    """One-time tokens to enroll with."""
    with control(address) as stub:
        request = pb.CreateTokensRequest(count=count, valid_seconds=valid_seconds)
        return stub.CreateTokens(request, timeout=CALL_SECONDS)


def revoke_device(address: ControlAddress, device_id: str) -> pb.RevokeDeviceResponse:
    """Lets a device in no more."""
    with control(address) as stub:
        return stub.RevokeDevice(pb.RevokeDeviceRequest(device_id=device_id), timeout=CALL_SECONDS)


def set_release(address: ControlAddress, path: Path, release: Release) -> None:
    """Has a signed archive of the client offered to devices of its kind."""

    def messages() -> Iterator[pb.SetReleaseRequest]:
        yield pb.SetReleaseRequest(release=release)
        with path.open("rb") as file:
            while piece := file.read(CHUNK):
                yield pb.SetReleaseRequest(data=piece)

    with control(address) as stub:
        stub.SetRelease(messages(), timeout=CREATE_SECONDS)


def releases(address: ControlAddress) -> list[Release]:
    """The releases that are offered, by machine."""
    with control(address) as stub:
        return list(stub.ListReleases(pb.ListReleasesRequest(), timeout=CALL_SECONDS).releases)


def withdraw_release(address: ControlAddress, machine: str) -> Release:
    """Offers a kind of machine no release any more."""
    with control(address) as stub:
        return stub.WithdrawRelease(pb.WithdrawReleaseRequest(machine=machine), timeout=CALL_SECONDS).release


Overview = tuple[list[pb.Run], list[pb.Device], Mapping[str, int] | None]


def overview(address: ControlAddress, place: Place) -> Overview:
    """Runs, devices, and how often which calls were refused.

    Of a server that is not running, the first two are read from its state, and None is known of the last.
    """
    try:
        with control(address) as stub:
            runs = stub.ListRuns(pb.ListRunsRequest(), timeout=CALL_SECONDS).runs
            known = stub.ListDevices(pb.ListDevicesRequest(), timeout=CALL_SECONDS)
            return list(runs), list(known.devices), dict(known.refused)
    except Unreachable:
        from server import stopped

        if not stopped.is_kept(place):
            raise
        return *stopped.read(place), None


def _explain(error: grpc.RpcError, address: ControlAddress) -> RavanError:
    target = address.target
    if status_of(error) is grpc.StatusCode.UNAVAILABLE and not code_of(error):
        problem = (
            "" if address.is_socket else tls_problem(target, address.tls.trusted(), f"copy ca.pem to {address.tls.ca}")
        )
        return (
            NotTrusted(problem)
            if problem
            else Unreachable(f"No server answers at {target}: start one with ravan-server serve, or set --control.")
        )
    if status_of(error) is grpc.StatusCode.DEADLINE_EXCEEDED:
        return RavanError(f"The server at {target} is too busy to answer: try again.")
    return RavanError(sentence_of(error))

"""The device's side of the Fleet service: every call is tried until the server answers."""

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception, sleep_using_event, wait_random_exponential

from edge.bandwidth import Bandwidth
from edge.errors import NotLetIn, Refused, Stopped
from edge.identity import Identity
from protos.ravan.v1 import fleet_pb2 as pb
from protos.ravan.v1 import fleet_pb2_grpc as rpc
from protos.ravan.v1.enrollment_pb2 import RotateKeyRequest
from protos.ravan.v1.enrollment_pb2_grpc import EnrollmentStub
from protos.ravan.v1.releases_pb2 import FetchReleaseRequest, FindReleaseRequest, Release
from protos.ravan.v1.releases_pb2_grpc import ReleasesStub
from ravan.errors import BundleError, MalformedUpdate, NotTrusted, RavanError, ReleaseError
from ravan.faults import reached
from ravan.rpc.address import speaks_tls, tls_problem
from ravan.rpc.refusal import code_of, sentence_of, status_of
from ravan.rpc.signing import Signing, signed_channel
from ravan.rpc.transfer import CHANNEL_OPTIONS, chunks

log = structlog.get_logger()
T = TypeVar("T")
Pieces = Callable[[int], Iterable[Any]]
"""From an offset to the messages of a call that streams from there on."""
AWAY = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
BROKEN = {
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
}
BROKEN_OFF = {"too-slow", "incomplete", "wrong-offset", "wrong-hash"}
"""Refusals of a transfer that went wrong on the way: it goes on, or begins anew if the server threw it away."""
FOR_GOOD = {"revoked", "unknown-device"}
"""Refusals that no waiting changes; others, as for a clock that is off, may pass at a device that was let in before."""
CLOCK = {"stale-call", "future-call"}
"""Refusals of a device whose clock is off, as it may be until a board has asked the network for the time."""
TRUST = "enroll again with the ca.pem that the operator has"
PLAIN = "The server at {} speaks TLS: enroll this device and leave out --insecure."
CALL_SECONDS = 60.0
HOLD_SECONDS = 30.0
"""For which the server may hold a check-in, so that a device hears of a round at once."""
TRANSFER_SECONDS = 3600.0
LONGEST_RECONNECT = 10.0  # seconds


@dataclass(frozen=True)
class Patience:
    """Seconds between two attempts, at first and at most, with full jitter."""

    first: float = 0.5
    longest: float = 60.0

    @property
    def options(self) -> list[tuple[str, int | str]]:
        """Of a channel that connects again as patiently."""
        longest = min(self.longest, LONGEST_RECONNECT)
        waits = {"grpc.initial_reconnect_backoff_ms": self.first, "grpc.max_reconnect_backoff_ms": longest}
        return [*CHANNEL_OPTIONS, *((name, round(1000 * seconds)) for name, seconds in waits.items())]


class FleetClient:
    """Calls the server as one device; a server that is away is tried again with growing, random waits.

    Attributes:
        device_id: whom the calls speak for.
        identity: whose key signs them, over TLS; None for a server on this machine that knows no keys.

    ``bandwidth`` is what its transfers share with those of other devices. ``on_away`` is told how the server does not
    answer, and nothing once it does.
    """

    def __init__(
        self,
        address: str,
        device_id: str,
        stop: threading.Event,
        identity: Identity | None = None,
        patience: Patience = Patience(),
        bandwidth: Bandwidth | None = None,
        on_away: Callable[[str], None] = lambda how: None,
    ) -> None:
        self.device_id = device_id
        self.identity = identity
        self._address = address
        self._stop = stop
        self._was_let_in = False
        self._patience = patience
        self._bandwidth, self._on_away = bandwidth or Bandwidth(), on_away
        if identity is None:
            self._channel = grpc.insecure_channel(address, options=patience.options)
        else:
            self._signing = Signing(identity.key)
            self._channel = signed_channel(address, identity.ca, self._signing, patience.options)
        self._stub = rpc.FleetStub(self._channel)
        self._enrollment, self._releases = EnrollmentStub(self._channel), ReleasesStub(self._channel)

    @property
    def was_let_in(self) -> bool:
        """Whether the server has done as it was asked, once at least."""
        return self._was_let_in

    def use(self, identity: Identity) -> None:
        """Signs the calls that follow with another key of the same device."""
        self.identity = identity
        self._signing.key = identity.key

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def check_in(self, name: str, capabilities: pb.Capabilities, hold: float = HOLD_SECONDS) -> pb.CheckInResponse:
        """A task, or when to come back; the server may think about it for ``hold`` seconds."""
        request = pb.CheckInRequest(device_id=self.device_id, name=name, capabilities=capabilities, hold_seconds=hold)
        return self._call(lambda: self._stub.CheckIn(request, timeout=CALL_SECONDS))

    def fetch_file(self, bundle_id: str, file: str, write: Callable[[bytes], object], offset: int, size: int) -> None:
        """Streams one file of a bundle from an offset on into ``write``; after a break it goes on there.

        Raises:
            BundleError: the server sends more than ``size`` bytes in all.
        """

        def pieces(position: int) -> Iterable[pb.FetchBundleResponse]:
            request = pb.FetchBundleRequest(device_id=self.device_id, bundle_id=bundle_id, file=file, offset=position)
            return self._stub.FetchBundle(request, timeout=TRANSFER_SECONDS)

        too_long = BundleError(f"The server sends more of {file} than its {size} bytes: tell the operator.")
        self._fetch(pieces, write, offset, size, too_long)

    def find_release(self, machine: str, version: str) -> Release | None:
        """The client that is offered to this kind of machine, if it is newer than this version."""
        request = FindReleaseRequest(device_id=self.device_id, machine=machine, version=version)
        answer = self._call(lambda: self._releases.FindRelease(request, timeout=CALL_SECONDS))
        return answer.release if answer.HasField("release") else None

    def fetch_release(self, sha256: str, write: Callable[[bytes], object], offset: int, size: int) -> None:
        """Streams a client's archive from an offset on into ``write``; after a break it goes on there.

        Raises:
            ReleaseError: the server sends more than ``size`` bytes in all.
        """

        def pieces(position: int) -> Iterable[Any]:
            request = FetchReleaseRequest(device_id=self.device_id, sha256=sha256, offset=position)
            return self._releases.FetchRelease(request, timeout=TRANSFER_SECONDS)

        too_long = ReleaseError(f"The server sends more of a client than its {size} bytes: tell the operator.")
        self._fetch(pieces, write, offset, size, too_long)

    def _fetch(
        self, pieces: Pieces, write: Callable[[bytes], object], offset: int, size: int, too_long: RavanError
    ) -> None:
        """Streams what ``pieces`` gives into ``write``; raises ``too_long`` if it exceeds ``size`` bytes."""
        position = offset

        def attempt() -> None:
            nonlocal position
            for message in pieces(position):
                position += len(message.data)
                if position > size:
                    raise too_long
                write(message.data)
                self._bandwidth.take(len(message.data))
                reached("piece-fetched")

        self._call(attempt)

    def fetch_adapter(self, binding: pb.Binding, size: int) -> bytes:
        """The bytes of the round's adapter; after a break it goes on there.

        Raises:
            MalformedUpdate: the server sends more than ``size`` bytes.
        """
        received = bytearray()

        def attempt() -> bytes:
            request = pb.FetchAdapterRequest(device_id=self.device_id, binding=binding, offset=len(received))
            for message in self._stub.FetchAdapter(request, timeout=TRANSFER_SECONDS):
                received.extend(message.data)
                if len(received) > size:
                    raise MalformedUpdate(f"The server sends an adapter of over {size} bytes: tell the operator.")
                self._bandwidth.take(len(message.data))
            return bytes(received)

        return self._call(attempt)

    def upload(self, header: pb.UploadHeader, data: bytes) -> str:
        """Uploads an update and returns the receipt.

        After a break it goes on with the first byte that the server does not have; it counts once, even if only the
        answer was lost.
        """
        broke = False

        def attempt() -> str:
            nonlocal broke
            offset, broke = self._held(header) if broke else 0, True
            return str(
                self._stub.UploadUpdate(
                    _messages(header, data, offset, self._bandwidth), timeout=TRANSFER_SECONDS
                ).receipt
            )

        return self._call(attempt)

    def _held(self, header: pb.UploadHeader) -> int:
        request = pb.AskUploadRequest(device_id=self.device_id, binding=header.binding, sha256=header.sha256)
        return int(self._stub.AskUpload(request, timeout=CALL_SECONDS).held)

    def report_failure(self, binding: pb.Binding, code: str, reason: str) -> None:
        """Gives a task back."""
        request = pb.ReportFailureRequest(device_id=self.device_id, binding=binding, code=code, reason=reason)
        self._call(lambda: self._stub.ReportFailure(request, timeout=CALL_SECONDS))

    def rotate_key(self, public_key: str) -> None:
        """Asks the server to know this device by another key."""
        request = RotateKeyRequest(device_id=self.device_id, public_key=public_key)
        self._call(lambda: self._enrollment.RotateKey(request, timeout=CALL_SECONDS))

    def _call(self, attempt: Callable[[], T]) -> T:
        """Calls until the server answers.

        Raises:
            Refused: with the server's sentence.
            NotLetIn, NotTrusted: by a server that has let this device in before this is taken for a passing trouble.
            Stopped: told to end meanwhile.
        """
        retrying = Retrying(
            retry=retry_if_exception(_is_away),
            wait=wait_random_exponential(multiplier=self._patience.first, max=self._patience.longest),
            sleep=sleep_using_event(self._stop),
            before=self._before,
            before_sleep=self._say,
            reraise=True,
        )
        try:
            answer = retrying(attempt)
        except grpc.RpcError as error:
            self._on_away("")
            raise self._refusal(error) from error
        except ValueError as error:  # grpc's word for a channel that was closed to stop the client
            if self._stop.is_set():
                raise _stopped() from error
            raise
        self._was_let_in = True
        self._on_away("")
        return answer

    def _refusal(self, error: grpc.RpcError) -> Refused:
        code = code_of(error) or status_of(error).name.lower()
        shut_out = status_of(error) is grpc.StatusCode.UNAUTHENTICATED and not self._was_let_in
        shut_out = shut_out and code not in CLOCK
        return (NotLetIn if shut_out or code in FOR_GOOD else Refused)(code, sentence_of(error))

    def _before(self, _: RetryCallState) -> None:
        if self._stop.is_set():
            raise _stopped()

    def _say(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        problem = self._tls_problem()
        if problem and not self._was_let_in:
            raise NotTrusted(problem)
        wait = state.next_action.sleep if state.next_action else 0.0
        how = problem or (status_of(error).name.lower() if isinstance(error, grpc.RpcError) else "no answer")
        self._on_away(how)
        log.warning(
            "server away",
            server=self._address,
            reason=how,
            attempt=state.attempt_number,
            next_try_seconds=round(wait, 1),
        )

    def _tls_problem(self) -> str:
        """What is wrong if the server does answer, but not as it must; else empty."""
        if self.identity is not None:
            return tls_problem(self._address, self.identity.ca, TRUST)
        return PLAIN.format(self._address) if speaks_tls(self._address) else ""


def _is_away(error: BaseException) -> bool:
    """Whether trying again may help: the server did not answer, or something between it and us failed."""
    if not isinstance(error, grpc.RpcError):
        return False
    if code_of(error) in BROKEN_OFF:
        return True
    return status_of(error) in AWAY or (status_of(error) in BROKEN and not code_of(error))


def _messages(
    header: pb.UploadHeader, data: bytes, offset: int, bandwidth: Bandwidth
) -> Iterator[pb.UploadUpdateRequest]:
    """An upload that goes on at the offset."""
    goes_on = pb.UploadHeader()
    goes_on.CopyFrom(header)
    goes_on.offset = offset
    yield pb.UploadUpdateRequest(header=goes_on)
    for piece in chunks(data[offset:], bandwidth.piece):
        bandwidth.take(len(piece))
        yield pb.UploadUpdateRequest(data=piece)
        reached("piece-sent")


def _stopped() -> Stopped:
    return Stopped("The client is stopping: start it again to go on.")

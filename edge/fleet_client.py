"""The device's side of the Fleet service: every call is tried until the server answers."""

import threading
from collections.abc import Callable, Iterator
from typing import TypeVar, cast

import grpc
import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception, sleep_using_event, wait_random_exponential

from edge.errors import Refused, Stopped
from protos.ravan.v1 import fleet_pb2 as pb
from protos.ravan.v1 import fleet_pb2_grpc as rpc
from ravan.errors import BundleError, MalformedUpdate
from ravan.rpc.transfer import CHANNEL_OPTIONS, CODE_KEY, chunks

log = structlog.get_logger()
T = TypeVar("T")
AWAY = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
BROKEN = {
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
}
CALL_SECONDS = 60.0
TRANSFER_SECONDS = 3600.0
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds; full jitter between attempts
_OPTIONS = [*CHANNEL_OPTIONS, ("grpc.initial_reconnect_backoff_ms", 500), ("grpc.max_reconnect_backoff_ms", 10_000)]


class FleetClient:
    """Calls the server as one device; a server that is away is tried again with growing, random waits."""

    def __init__(self, address: str, device_id: str, stop: threading.Event) -> None:
        self.device_id = device_id
        self._address = address
        self._stop = stop
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        self._stub = rpc.FleetStub(self._channel)

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def check_in(self, name: str, capabilities: pb.Capabilities) -> pb.CheckInResponse:
        """A task, or when to come back."""
        request = pb.CheckInRequest(device_id=self.device_id, name=name, capabilities=capabilities)
        return self._call(lambda: self._stub.CheckIn(request, timeout=CALL_SECONDS))

    def fetch_file(self, bundle_id: str, file: str, write: Callable[[bytes], object], offset: int, size: int) -> None:
        """Streams one file of a bundle from an offset on into ``write``; after a break it goes on there.

        Raises:
            BundleError: the server sends more than ``size`` bytes in all.
        """
        position = offset

        def attempt() -> None:
            nonlocal position
            request = pb.FetchBundleRequest(device_id=self.device_id, bundle_id=bundle_id, file=file, offset=position)
            for message in self._stub.FetchBundle(request, timeout=TRANSFER_SECONDS):
                position += len(message.data)
                if position > size:
                    raise BundleError(f"The server sends more of {file} than its {size} bytes: tell the operator.")
                write(message.data)

        self._call(attempt)

    def fetch_adapter(self, binding: pb.Binding, size: int) -> bytes:
        """The bytes of the round's adapter.

        Raises:
            MalformedUpdate: the server sends more than ``size`` bytes.
        """
        request = pb.FetchAdapterRequest(device_id=self.device_id, binding=binding)

        def attempt() -> bytes:
            received = bytearray()
            for message in self._stub.FetchAdapter(request, timeout=TRANSFER_SECONDS):
                received += message.data
                if len(received) > size:
                    raise MalformedUpdate(f"The server sends an adapter of over {size} bytes: tell the operator.")
            return bytes(received)

        return self._call(attempt)

    def upload(self, header: pb.UploadHeader, data: bytes) -> str:
        """Uploads an update and returns the receipt; sent again if the answer was lost, which counts once."""

        def messages() -> Iterator[pb.UploadUpdateRequest]:
            yield pb.UploadUpdateRequest(header=header)
            for piece in chunks(data):
                yield pb.UploadUpdateRequest(data=piece)

        return self._call(lambda: self._stub.UploadUpdate(messages(), timeout=TRANSFER_SECONDS).receipt)

    def report_failure(self, binding: pb.Binding, code: str, reason: str) -> None:
        """Gives a task back."""
        request = pb.ReportFailureRequest(device_id=self.device_id, binding=binding, code=code, reason=reason)
        self._call(lambda: self._stub.ReportFailure(request, timeout=CALL_SECONDS))

    def _call(self, attempt: Callable[[], T]) -> T:
        """Raises Refused with the server's sentence, or Stopped when told to end meanwhile."""
        retrying = Retrying(
            retry=retry_if_exception(_is_away),
            wait=wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT),
            sleep=sleep_using_event(self._stop),
            before=self._before,
            before_sleep=self._say,
            reraise=True,
        )
        try:
            return retrying(attempt)
        except grpc.RpcError as error:
            raise Refused(_code(error) or _status(error).name.lower(), _sentence(error)) from error
        except ValueError as error:  # grpc's word for a channel that was closed to stop the client
            if self._stop.is_set():
                raise _stopped() from error
            raise

    def _before(self, _: RetryCallState) -> None:
        if self._stop.is_set():
            raise _stopped()

    def _say(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        wait = state.next_action.sleep if state.next_action else 0.0
        log.warning(
            "server away",
            server=self._address,
            reason=_status(error).name.lower() if isinstance(error, grpc.RpcError) else "",
            attempt=state.attempt_number,
            next_try_seconds=round(wait, 1),
        )


def _is_away(error: BaseException) -> bool:
    """Whether trying again may help: the server did not answer, or something between it and us failed."""
    if not isinstance(error, grpc.RpcError):
        return False
    return _status(error) in AWAY or (_status(error) in BROKEN and not _code(error))


def _status(error: grpc.RpcError) -> grpc.StatusCode:
    return cast(grpc.Call, error).code()


def _code(error: grpc.RpcError) -> str:
    """The server's own code, empty when the server itself did not refuse."""
    return str(dict(cast(grpc.Call, error).trailing_metadata() or ()).get(CODE_KEY, ""))


def _sentence(error: grpc.RpcError) -> str:
    return cast(grpc.Call, error).details() or f"The server refused: {_status(error).name}."


def _stopped() -> Stopped:
    return Stopped("The client is stopping: start it again to go on.")

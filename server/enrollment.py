"""The Enrollment service: how devices become known, change their keys, and leave."""

import hashlib
import re
import time
from collections import Counter
from collections.abc import Callable

import structlog

from protos.ravan.v1 import enrollment_pb2 as pb
from protos.ravan.v1 import enrollment_pb2_grpc as rpc
from ravan.faults import reached
from ravan.rpc.keys import PUBLIC, device_id_of
from server.errors import BadRequest
from server.guard import Context, guarded, printable
from server.records import Holder
from server.storage import Storage

log = structlog.get_logger()
_PUBLIC_KEY = re.compile(PUBLIC)


class Enrollment(rpc.EnrollmentServicer):
    """Trades tokens for places among the devices; who calls is checked before, see ``server/gate.py``.

    ``wake`` is called when a round need not wait for a device any more.
    """

    def __init__(
        self,
        storage: Storage,
        refused: Counter[str],
        operator: str,
        wake: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.refused = refused
        self._operator, self._wake = operator, wake
        self._storage = storage
        self._clock = clock

    @guarded
    async def Enroll(self, request: pb.EnrollRequest, context: Context) -> pb.EnrollResponse:
        """Uses a token up for the key that signed the call."""
        key = _public_key(request.public_key)
        holder = Holder(device_id_of(key), key, printable(request.name), self._clock())
        await self._storage.call(self._storage.state.enroll, hash_of(request.token), holder)
        reached("token-used")
        log.info("device enrolled", device=holder.device_id[:8], name=holder.name)
        return pb.EnrollResponse(device_id=holder.device_id, operator_key=self._operator)

    @guarded
    async def RotateKey(self, request: pb.RotateKeyRequest, context: Context) -> pb.RotateKeyResponse:
        """Replaces the key of the device that calls."""
        key = _public_key(request.public_key)
        await self._storage.call(self._storage.state.rotate, request.device_id, key)
        reached("key-rotated")
        log.info("key rotated", device=request.device_id[:8])
        return pb.RotateKeyResponse()

    @guarded
    async def Leave(self, request: pb.LeaveRequest, context: Context) -> pb.LeaveResponse:
        """Ends the part of the device that calls."""
        counted = await self._storage.call(self._storage.state.leave, request.device_id, self._clock())
        log.info("device left", device=request.device_id[:8])
        self._wake()
        return pb.LeaveResponse(counted_updates=counted)


def hash_of(token: str) -> str:
    """What the state keeps of a token; tokens have 160 random bits, so that no slow hash is needed."""
    return hashlib.sha256(token.encode()).hexdigest()


def _public_key(text: str) -> str:
    if not _PUBLIC_KEY.fullmatch(text):
        raise BadRequest("A public key has 64 hexadecimal digits: let the edge client make one.")
    return text

"""The gate before the services: nothing of a call is read, decoded or answered before its credential holds."""

import hashlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from ravan.errors import RavanError
from ravan.rpc.signing import Statement
from server.callers import Caller, Identify
from server.credentials import check_time, read
from server.errors import BadRequest, OtherBody, OtherDevice
from server.guard import Context, refuse
from server.replays import Replays

OPEN_TO_ALL = frozenset({"/grpc.health.v1.Health/Check"})
"""Says that the server is up and nothing else, to whoever must know, such as a load balancer."""

Handler = Any
"""``grpc.RpcMethodHandler``, of which the type stubs know the synchronous form alone."""


class Gate(grpc.aio.ServerInterceptor):
    """Lets calls through to the services that are signed for exactly what they are, now, once, by a known key.

    Args:
        identify: who the holder of a key is, and what is open to it.
        replays: which calls were made before.
        skew: seconds that a caller's clock may be off.
        refused: where refused calls are counted by code, as the services count what they refuse.
        clock: Unix time.
    """

    def __init__(
        self,
        identify: Identify,
        replays: Replays,
        skew: float,
        refused: Counter[str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._refused = refused
        self._identify = identify
        self._replays = replays
        self._skew = skew
        self._clock = clock

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The service's handler behind the checks that need the call's body, or one that refuses."""
        handler, method = await continuation(handler_call_details), handler_call_details.method
        if handler is None:
            return None
        if method in OPEN_TO_ALL:
            return _unread(handler)
        try:
            statement = read(handler_call_details.invocation_metadata, method)
            caller = await self._identify(method, statement.key)
            check_time(statement, self._clock(), self._skew)
            # Nothing is kept for strangers, or they could fill the disk.
            await (self._replays.remember if caller.is_known else self._replays.look)(statement)
        except RavanError as error:
            return self._refusing(error)
        return self._behind_checks(handler, statement, caller)

    def _refusing(self, error: RavanError) -> Handler:
        """Takes any number of messages, so that none is waited for."""

        async def behavior(_: AsyncIterator[bytes], context: Context) -> None:
            await refuse(context, error, self._refused)

        return grpc.stream_stream_rpc_method_handler(behavior)

    def _behind_checks(self, handler: Handler, statement: Statement, caller: Caller) -> Handler:
        """The same handler, given bytes instead of messages; it decodes them once they are what was signed."""
        first = _First(handler, statement, caller, self._refused)

        async def unary_unary(data: bytes, context: Context) -> Any:
            answer = await handler.unary_unary(await first.or_refuse(data, context), context)
            if not caller.is_known:  # it is now
                await self._remember(statement, context)
            return answer

        async def unary_stream(data: bytes, context: Context) -> AsyncIterator[Any]:
            async for message in handler.unary_stream(await first.or_refuse(data, context), context):
                yield message

        async def stream_unary(pieces: AsyncIterator[bytes], context: Context) -> Any:
            return await handler.stream_unary(first.then_others(pieces), context)

        serialize = handler.response_serializer
        match handler.request_streaming, handler.response_streaming:
            case False, False:
                return grpc.unary_unary_rpc_method_handler(unary_unary, None, serialize)
            case False, True:
                return grpc.unary_stream_rpc_method_handler(unary_stream, None, serialize)
            case True, False:
                return grpc.stream_unary_rpc_method_handler(stream_unary, None, serialize)
        raise NotImplementedError(f"{statement.method} streams both ways")

    async def _remember(self, statement: Statement, context: Context) -> None:
        try:
            await self._replays.remember(statement)
        except RavanError as error:
            await refuse(context, error, self._refused)


def _unread(handler: Handler) -> Handler:
    """Answers an empty message at once: a stranger whose message never comes must not hold a call open."""

    async def behavior(_: AsyncIterator[bytes], context: Context) -> Any:
        return await handler.unary_unary(handler.request_deserializer(b""), context)

    return grpc.stream_unary_rpc_method_handler(behavior, None, handler.response_serializer)


class _First:
    """A call's first message, which must be what was signed and the caller's own."""

    def __init__(self, handler: Handler, statement: Statement, caller: Caller, refused: Counter[str]) -> None:
        self._refused = refused
        self._handler = handler
        self._statement = statement
        self._caller = caller

    def _open(self, data: bytes) -> Any:
        """The message of these bytes.

        Raises:
            OtherBody, OtherDevice, BadRequest: they are not what was signed; or speak for somebody else; or nothing.
        """
        if hashlib.sha256(data).hexdigest() != self._statement.body:
            raise OtherBody("The signature is for another body: sign every call anew.")
        message = self._decode(data)
        if not self._caller.owns(message):
            raise OtherDevice("The call speaks for another device than the one that signed it: use its own key.")
        return message

    def _decode(self, data: bytes) -> Any:
        try:
            return self._handler.request_deserializer(data)
        except DecodeError:
            raise BadRequest("The message is not of this version: update ravan-fl.") from None

    async def or_refuse(self, data: bytes, context: Context) -> Any:
        """The one message of a call."""
        try:
            return self._open(data)
        except RavanError as error:
            await refuse(context, error, self._refused)

    async def then_others(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        """The messages of a stream; those after the first are bound by what it declares."""
        began = False
        async for data in pieces:
            yield self._decode(data) if began else self._open(data)
            began = True
        if not began:
            raise OtherBody("The call came without the message that was signed: send it again.")

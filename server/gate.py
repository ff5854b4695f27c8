"""The gate before the services: nothing of a call is read, decoded or answered before its credential holds."""

import hashlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from ravan.errors import RavanError
from ravan.rpc.signing import Statement
from ravan.rpc.transfer import TIME_KEY
from server.callers import Caller, Identify
from server.credentials import check_time, read
from server.errors import OtherBody, OtherDevice
from server.guard import Context, refuse
from server.messages import Handler, decode, from_bytes
from server.replays import Replays

OPEN_TO_ALL = frozenset({"/grpc.health.v1.Health/Check"})
"""Says that the server is up and nothing else, to whoever must know, such as a load balancer."""


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
            return _unread(handler, self._clock)
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

        def opened(data: bytes | None) -> Any:
            if data is None:
                raise OtherBody("The call came without the message that was signed: send it again.")
            if hashlib.sha256(data).hexdigest() != statement.body:
                raise OtherBody("The signature is for another body: sign every call anew.")
            message = decode(handler, data)
            if not caller.owns(message):
                raise OtherDevice("The call speaks for another device than the one that signed it: use its own key.")
            return message

        return from_bytes(handler if caller.is_known else self._remembering(handler, statement), opened, self._refused)

    def _remembering(self, handler: Handler, statement: Statement) -> Handler:
        """A handler for a caller who is known from its answer on."""

        async def unary_unary(request: Any, context: Context) -> Any:
            answer = await handler.unary_unary(request, context)
            try:
                await self._replays.remember(statement)
            except RavanError as error:
                await refuse(context, error, self._refused)
            return answer

        return grpc.unary_unary_rpc_method_handler(
            unary_unary, handler.request_deserializer, handler.response_serializer
        )


def _unread(handler: Handler, clock: Callable[[], float]) -> Handler:
    """Answers an empty message at once: a stranger whose message never comes must not hold a call open.

    The answer tells the time, so that a device that is refused for its clock can be looked into.
    """

    async def behavior(_: AsyncIterator[bytes], context: Context) -> Any:
        await context.send_initial_metadata(((TIME_KEY, str(round(1000 * clock()))),))
        return await handler.unary_unary(handler.request_deserializer(b""), context)

    return grpc.stream_unary_rpc_method_handler(behavior, None, handler.response_serializer)

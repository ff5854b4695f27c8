"""From a call's bytes to its messages: in time, and refused where they are none."""

import asyncio
import inspect
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from ravan.errors import RavanError
from server.errors import BadRequest, TooSlow
from server.guard import Context, refuse

FIRST_SECONDS = 30.0
"""That a call's first message may take; without a limit, silent calls would keep all others out."""

Handler = Any
"""``grpc.RpcMethodHandler``, of which the type stubs know the synchronous form alone."""
Open = Callable[[bytes | None], Any]
"""From the bytes of a call's first message to the message, or to a refusal; None if none came."""


def decode(handler: Handler, data: bytes | None) -> Any:
    """A message of a handler's method.

    Raises:
        BadRequest: the bytes are none, or never came.
    """
    if data is None:
        raise BadRequest("The call came without a message: send it again.")
    try:
        return handler.request_deserializer(data)
    except DecodeError:
        raise BadRequest("The message is not of this version: update ravan-fl.") from None


def from_bytes(handler: Handler, opened: Open, refused: Counter[str]) -> Handler:
    """The same handler, given bytes; its first message is what ``opened`` makes of them, within a bounded time."""
    calls = _Calls(handler, opened, refused)
    match handler.request_streaming, handler.response_streaming:
        case False, False:
            return grpc.stream_unary_rpc_method_handler(calls.unary_unary, None, handler.response_serializer)
        case False, True:
            return grpc.stream_stream_rpc_method_handler(calls.unary_stream, None, handler.response_serializer)
        case True, False:
            return grpc.stream_unary_rpc_method_handler(calls.stream_unary, None, handler.response_serializer)
    raise NotImplementedError("a method streams both ways")


@dataclass(frozen=True)
class _Calls:
    """A handler's behavior by form; every form is given a stream, so that its first message can be waited for."""

    handler: Handler
    opened: Open
    refused: Counter[str]

    async def unary_unary(self, pieces: AsyncIterator[bytes], context: Context) -> Any:
        async with _ended(pieces) as messages:
            return await self.handler.unary_unary(await self._one(messages, context), context)

    async def unary_stream(self, pieces: AsyncIterator[bytes], context: Context) -> None:
        async with _ended(pieces) as messages:
            answers = self.handler.unary_stream(await self._one(messages, context), context)
            if inspect.isawaitable(answers):  # it writes by itself, as health checks do
                await answers
                return
            async with aclosing(answers):
                async for message in answers:
                    await context.write(message)

    async def stream_unary(self, pieces: AsyncIterator[bytes], context: Context) -> Any:
        async with _ended(pieces) as messages:
            return await self.handler.stream_unary(self._several(messages), context)

    async def _one(self, pieces: AsyncIterator[bytes], context: Context) -> Any:
        try:
            return self.opened(await _first(pieces))
        except RavanError as error:
            await refuse(context, error, self.refused)

    async def _several(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        """Those after the first are bound by what it declares."""
        yield self.opened(await _first(pieces))
        async for data in pieces:
            yield decode(self.handler, data)


class Opening(grpc.aio.ServerInterceptor):
    """Opens the messages of every call, where no gate does: on loopback, and on the operator's socket."""

    def __init__(self, refused: Counter[str]) -> None:
        self._refused = refused

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The service's handler, given bytes."""
        handler = await continuation(handler_call_details)
        return handler and from_bytes(handler, lambda data: decode(handler, data), self._refused)


def _ended(pieces: AsyncIterator[bytes]) -> aclosing[Any]:
    """Messages that are let go of at the end: grpc keeps a stream open until what reads it is gone."""
    messages: Any = aiter(pieces)
    return aclosing(messages)


async def _first(pieces: AsyncIterator[bytes]) -> bytes | None:
    """The bytes of a call's first message, None if it has none.

    Raises:
        TooSlow: it does not come.
    """
    try:
        async with asyncio.timeout(FIRST_SECONDS):
            async for data in pieces:
                return data
    except TimeoutError:
        raise TooSlow(f"The call's message did not come within {FIRST_SECONDS:.0f} s: send it again.") from None
    return None

"""What every method of every service does alike: refusals become gRPC statuses, texts from devices are made safe."""

import functools
import inspect
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, Protocol, TypeVar, cast

import grpc
import structlog

from ravan.cli.errors import explain_os_error
from ravan.errors import RavanError
from ravan.rpc.transfer import CODE_KEY
from server.errors import STATUS

log = structlog.get_logger()
LONGEST_TEXT = 120  # characters of a name or sentence that a device sends
DEFECT = "defect"
Context = grpc.aio.ServicerContext[Any, Any]
Method = TypeVar("Method", bound=Callable[..., Any])


class Counting(Protocol):
    """A service that counts the calls it refuses, by code."""

    refused: Counter[str]


def guarded(method: Method) -> Method:
    """A service method whose refusals are counted, and end the call with their status, code and sentence."""
    if inspect.isasyncgenfunction(method):

        @functools.wraps(method)
        async def stream(self: Counting, request: object, context: Context) -> AsyncIterator[Any]:
            try:
                async for message in method(self, request, context):
                    yield message
            except (RavanError, OSError) as error:
                await refuse(context, error, self.refused)
            except Exception:
                await confess(context, self.refused)

        return cast(Method, stream)

    @functools.wraps(method)
    async def unary(self: Counting, request: object, context: Context) -> Any:
        try:
            return await cast(Callable[..., Awaitable[Any]], method)(self, request, context)
        except (RavanError, OSError) as error:
            await refuse(context, error, self.refused)
        except Exception:
            await confess(context, self.refused)

    return cast(Method, unary)


async def refuse(context: Context, error: RavanError | OSError, refused: Counter[str]) -> NoReturn:
    """Ends a call with the status of an error, and counts it."""
    explained = explain_os_error(error) if isinstance(error, OSError) else error
    status = STATUS.get(type(explained), grpc.StatusCode.FAILED_PRECONDITION)
    refused[explained.code] += 1
    log.warning("refused", code=explained.code, reason=str(explained), peer=context.peer())
    await context.abort(status, str(explained), ((CODE_KEY, explained.code),))


async def confess(context: Context, refused: Counter[str]) -> NoReturn:
    """Ends a call that met a defect of ours; what it was stays in the server's log."""
    if not context.done():
        refused[DEFECT] += 1
        log.exception("defect", peer=context.peer())
    await context.abort(grpc.StatusCode.INTERNAL, "The server met a defect of its own: tell the operator.")


def printable(text: str) -> str:
    """Text from a device, cut and without control characters, which would reach the operator's terminal."""
    return "".join(c for c in text[:LONGEST_TEXT] if c.isprintable())

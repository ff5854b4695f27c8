"""Structured logs: JSON lines for programs, short colored lines on a terminal."""

import sys
import time
from collections import Counter
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog

REPEAT_SECONDS = 1.0


class Repeats:
    """Lets refusals of one code through once a second, or strangers could fill the disk.

    The next one says how many were left out.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[str, float] = {}
        self._left_out: Counter[str] = Counter()

    def __call__(self, _: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Called by structlog for every event."""
        if event["event"] != "refused":
            return event
        code = str(event.get("code"))
        if self._clock() - self._said.get(code, -REPEAT_SECONDS) < REPEAT_SECONDS:
            self._left_out[code] += 1
            raise structlog.DropEvent
        self._said[code] = self._clock()
        left_out = self._left_out.pop(code, 0)
        return {**event, "left_out": left_out} if left_out else event


def configure_logs(*first: structlog.typing.Processor, as_json: bool | None = None) -> None:
    """Sends events to standard error, through ``first``; JSON unless that is a terminal."""
    if as_json is None:
        as_json = not sys.stderr.isatty()
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(pad_event_to=0)
    )
    structlog.configure(
        processors=[
            *first,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso" if as_json else "%H:%M:%S", utc=as_json),
            renderer,
        ],
        # Standard error as it is by then; and a line at once, for a client and its worker write to the same file.
        logger_factory=lambda *_: structlog.WriteLogger(sys.stderr),
    )

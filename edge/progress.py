"""What a person or a log sees of the devices in a process: a bar on a terminal, structured events otherwise."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import structlog

from protos.ravan.v1 import fleet_pb2 as pb

log = structlog.get_logger()
LOG_SECONDS = 10.0
OnStep = Callable[[int, float], None]


class Progress(Protocol):
    """Told what the devices do."""

    def waiting(self, device: str, reason: pb.WaitReason) -> None:
        """A device waits for a task."""

    @contextmanager
    def training(self, device: str, round_number: int, steps: int) -> Iterator[OnStep]:
        """A device trains; the function yielded is called after every step with its number and loss."""
        ...

    def uploaded(self, device: str, round_number: int, size: int, loss: float) -> None:
        """The server has given the receipt for an update."""


class Events:
    """Structured events, at most one in ten seconds while training."""

    def waiting(self, device: str, reason: pb.WaitReason) -> None:
        """Not worth a line every few seconds."""

    @contextmanager
    def training(self, device: str, round_number: int, steps: int) -> Iterator[OnStep]:
        """An event at the start and now and then."""
        log.info("training", device=device, round=round_number, steps=steps)
        said = time.monotonic()

        def on_step(step: int, loss: float) -> None:
            nonlocal said
            if time.monotonic() - said > LOG_SECONDS:
                said = time.monotonic()
                log.info("step", device=device, round=round_number, step=step, of=steps, loss=round(loss, 4))

        yield on_step

    def uploaded(self, device: str, round_number: int, size: int, loss: float) -> None:
        """An event."""
        log.info("uploaded", device=device, round=round_number, bytes=size, loss=round(loss, 4))


def progress_for() -> Progress:
    """Bars on a terminal, events otherwise."""
    if not sys.stderr.isatty():
        return Events()
    from edge.bars import Terminal

    return Terminal()

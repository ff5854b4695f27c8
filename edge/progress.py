"""What a person or a log sees of the devices in a process: a bar on a terminal, structured events otherwise."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import structlog

from protos.ravan.v1 import fleet_pb2 as pb

log = structlog.get_logger()
LOG_SECONDS = 10.0
OnStep = Callable[[int, float], None]


class Progress:
    """Told what the devices do; shows nothing."""

    def asking(self, device: str) -> None:
        """A device asks for a task, which a server may answer only once it has one."""

    def waiting(self, device: str, reason: pb.WaitReason, seconds: float) -> None:
        """A device waits for a task, and asks again in so many seconds."""

    def held(self, device: str, why: Sequence[str]) -> None:
        """A device may not ask for a task, for these reasons."""

    def fetching(self, device: str, binding: pb.Binding) -> None:
        """A device fetches what a task needs."""

    @contextmanager
    def training(self, device: str, round_number: int, steps: int) -> Iterator[OnStep]:
        """A device trains; the function yielded is called after every step with its number and loss."""
        yield lambda step, loss: None

    def paused(self, device: str, why: str) -> None:
        """Its training is stopped for a while; goes on if there is no reason any more."""

    def uploading(self, device: str, round_number: int, why_not: str = "") -> None:
        """A device sends an update, or keeps it for a while because of something."""

    def uploaded(self, device: str, round_number: int, size: int, loss: float) -> None:
        """The server has given the receipt for an update."""

    def failed(self, device: str, sentence: str) -> None:
        """Something came to nothing."""

    def away(self, device: str, how: str) -> None:
        """The server does not answer; it does again if nothing says how."""

    def ended(self, device: str, why: str) -> None:
        """A device takes part no more."""


class Events(Progress):
    """Structured events, at most one in ten seconds while training."""

    def __init__(self) -> None:
        self._held: set[str] = set()

    def held(self, device: str, why: Sequence[str]) -> None:
        """An event when it begins."""
        if device not in self._held:
            self._held.add(device)
            log.info("taking no task", device=device, reason="; ".join(why))

    def fetching(self, device: str, binding: pb.Binding) -> None:
        """It is held no more."""
        self._held.discard(device)

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

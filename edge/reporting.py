"""From what devices do to the status file, beside what is shown of it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from edge.progress import OnStep, Progress
from edge.status import Board, Doing
from protos.ravan.v1 import fleet_pb2 as pb

WAITS = {
    pb.WAIT_REASON_NO_RUN: "the server has no run",
    pb.WAIT_REASON_NOT_SELECTED: "the server has chosen others for this round, or the next has not begun",
    pb.WAIT_REASON_RUN_PAUSED: "the operator has paused the run",
    pb.WAIT_REASON_RUN_FINISHED: "the run has finished",
}
ASKED = "the server has not given one yet"
UNKNOWN = "the server gave no reason"


class Reporting(Progress):
    """Writes all on the board, and hands on what there is to show."""

    def __init__(self, shown: Progress, board: Board) -> None:
        self._shown, self._board = shown, board

    def asking(self, device: str) -> None:
        """As ``Progress.asking``."""
        if self._board.doing(device) is not Doing.WAITING:
            self._board.say(device, Doing.WAITING, why=(ASKED,))
        self._shown.asking(device)

    def waiting(self, device: str, reason: pb.WaitReason, seconds: float) -> None:
        """As ``Progress.waiting``."""
        self._board.say(device, Doing.WAITING, why=(WAITS.get(reason, UNKNOWN),), until=time.time() + seconds)
        self._shown.waiting(device, reason, seconds)

    def held(self, device: str, why: Sequence[str]) -> None:
        """As ``Progress.held``."""
        self._board.say(device, Doing.HELD, why=tuple(why))
        self._shown.held(device, why)

    def fetching(self, device: str, binding: pb.Binding) -> None:
        """As ``Progress.fetching``."""
        task = {"run": binding.run_id, "round": binding.round, "step": 0, "steps": 0, "loss": None}
        self._board.say(device, Doing.FETCHING, **task)
        self._shown.fetching(device, binding)

    @contextmanager
    def training(self, device: str, round_number: int, steps: int) -> Iterator[OnStep]:
        """As ``Progress.training``."""
        self._board.say(device, Doing.TRAINING, round=round_number, steps=steps)
        with self._shown.training(device, round_number, steps) as show:

            def on_step(step: int, loss: float) -> None:
                self._board.step(device, step, loss)
                show(step, loss)

            yield on_step

    def paused(self, device: str, why: str) -> None:
        """As ``Progress.paused``."""
        self._board.say(device, Doing.PAUSED if why else Doing.TRAINING, why=(why,) if why else ())
        self._shown.paused(device, why)

    def uploading(self, device: str, round_number: int, why_not: str = "") -> None:
        """As ``Progress.uploading``."""
        self._board.say(device, Doing.UPLOADING, round=round_number, why=(why_not,) if why_not else ())
        self._shown.uploading(device, round_number, why_not)

    def uploaded(self, device: str, round_number: int, size: int, loss: float) -> None:
        """As ``Progress.uploaded``."""
        self._shown.uploaded(device, round_number, size, loss)

    def failed(self, device: str, sentence: str) -> None:
        """As ``Progress.failed``."""
        self._board.failed(device, sentence)
        self._shown.failed(device, sentence)

    def away(self, device: str, how: str) -> None:
        """As ``Progress.away``."""
        if how:
            self._board.is_away(device, how)
        else:
            self._board.answered(device)
        self._shown.away(device, how)

    def ended(self, device: str, why: str) -> None:
        """As ``Progress.ended``."""
        self._board.say(device, Doing.ENDED, why=(why,) if why else ())
        self._shown.ended(device, why)

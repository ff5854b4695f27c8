"""Who has the worker train: one local run at a time in a client, watched over from start to end."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import structlog

from edge.conditions import NO_RULES, Conditions
from edge.errors import RoundOver, Stopped, WorkerEnded, WorkFailed
from edge.itself import own_command
from edge.job import FAILED, FINISHED, STEP, STOP, STOPPED, Job, WorkerSettings, to_dict
from edge.lean import give_back
from edge.machine import family, held_memory
from edge.process import WorkerProcess
from edge.progress import OnStep
from ravan.errors import DataError, EnvironmentProblem, NoExamples

log = structlog.get_logger()
TICK = 0.5  # seconds
WARM_SECONDS = 15.0
STOP_SECONDS = 10.0
OnPause = Callable[[str], None]
TOO_MUCH = (
    "Training held {:.0f} MB, more than --memory-mb {}, and was ended: allow more, or give a lower --micro-batch."
)


class Foreman:
    """Starts the worker when there is work, keeps it for some seconds in case there is more, and ends it.

    Loading a bundle takes seconds, which the devices of one client, or quick rounds, need not spend each time.

    Attributes:
        conditions: whether this device may train now; looked at before a local run and twice a second while it lasts.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        conditions: Conditions | None = None,
        command: Sequence[str] | None = None,
        warm_seconds: float = WARM_SECONDS,
    ) -> None:
        self._settings, self._warm_seconds = settings, warm_seconds
        self.conditions = Conditions(NO_RULES) if conditions is None else conditions
        self._command = own_command("_worker") if command is None else command
        self._turn = threading.Lock()
        self._process: WorkerProcess | None = None
        self._timer: threading.Timer | None = None

    def train(
        self,
        job: Job,
        stop: threading.Event,
        until: float,
        on_step: OnStep,
        on_pause: OnPause = lambda why: None,
    ) -> None:
        """Has a local run done, or gone on with; returns once its update is in the outbox.

        Args:
            job: the run.
            stop: set to have it stopped, with a checkpoint.
            until: when the round is over, of ``time.monotonic``.
            on_step: told the number of a step and its loss.
            on_pause: told why training waits or is paused, and nothing once it goes on.

        Raises:
            DataError: the data is of no use.
            WorkFailed: the run came to nothing; has the code and the sentence.
            WorkerEnded: the worker crashed, or was killed.
            RoundOver: the round was over first.
            Stopped: as asked.
        """
        while not self._turn.acquire(timeout=TICK):
            _look(stop, until)
        try:
            self._await_conditions(stop, until, on_pause)
            process = self._hired()
            try:
                process.send(job.to_dict())
                self._watch(process, stop, until, on_step, on_pause)
            except BaseException as error:
                if not isinstance(error, (DataError, WorkFailed)):  # else it is ready for another run
                    self._dismiss()
                raise
            finally:
                self._keep_warm()
        finally:
            self._turn.release()

    def close(self) -> None:
        """Ends the worker."""
        with self._turn:
            self._dismiss()

    def _await_conditions(self, stop: threading.Event, until: float, on_pause: OnPause) -> None:
        said = ""
        while reason := self.conditions.against():
            on_pause(reason)
            if reason != said:
                log.info("waiting to train", reason=reason)
                said = reason
            if self._process is not None:  # its memory is of use to whoever is busy
                self._dismiss()
            _look(stop, until)
            stop.wait(TICK)
        if said:
            on_pause("")
        _look(stop, until)

    def _watch(
        self,
        process: WorkerProcess,
        stop: threading.Event,
        until: float,
        on_step: OnStep,
        on_pause: OnPause,
    ) -> None:
        """Until the run has ended, in whatever way."""
        looked = float("-inf")
        while True:
            try:
                _look(stop, until)
            except Stopped:
                self._stop(process)
                raise
            if time.monotonic() - looked >= TICK:
                looked = time.monotonic()
                self._look_after(process, on_pause)
            message = process.receive(TICK)
            if message is None:
                continue
            if message["event"] == STEP:
                on_step(message["step"], message["loss"])
            elif _is_over(message):
                return

    def _look_after(self, process: WorkerProcess, on_pause: OnPause) -> None:
        """Pauses the worker, or lets it go on, as the conditions are.

        Raises:
            EnvironmentProblem: it holds more memory than it may.
        """
        own = family(process.pid)
        held, most = sum(map(held_memory, own)), self._settings.memory_mb << 20
        if most and held > most:
            raise EnvironmentProblem(TOO_MUCH.format(held / 1e6, self._settings.memory_mb))
        reason = self.conditions.against(own)
        if reason and not process.paused:
            log.info("paused", reason=reason)
            process.pause()
        elif process.paused and not reason:
            log.info("going on")
            process.go_on()
        else:
            return
        on_pause(reason)

    def _stop(self, process: WorkerProcess) -> None:
        """Lets the worker write where the run is."""
        process.go_on()
        end = time.monotonic() + STOP_SECONDS
        with suppress(WorkerEnded):
            process.send(STOP)
            while (left := end - time.monotonic()) > 0:
                message = process.receive(left)
                if message is not None and message["event"] != STEP:
                    return

    def _hired(self) -> WorkerProcess:
        if self._timer is not None:
            self._timer.cancel()
        if self._process is not None and not self._process.runs:
            self._dismiss()
        if self._process is None:
            self._process = WorkerProcess(self._command, dict(os.environ))
            self._process.send(to_dict(self._settings))
        return self._process

    def _keep_warm(self) -> None:
        if self._process is None:
            return
        self._timer = threading.Timer(self._warm_seconds, self._after_a_while)
        self._timer.daemon = True
        self._timer.start()

    def _after_a_while(self) -> None:
        if self._turn.acquire(blocking=False):
            try:
                self._dismiss()
            finally:
                self._turn.release()

    def _dismiss(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        process, self._process = self._process, None
        if process is not None:
            process.end()
            give_back()


def _look(stop: threading.Event, until: float) -> None:
    """Raises Stopped or RoundOver if it is time to end."""
    if stop.is_set():
        raise Stopped("The client is stopping: the task waits for it until the round's deadline.")
    if time.monotonic() > until:
        raise RoundOver("The round was over before this device had trained: it asks for the next one.")


def _is_over(message: dict[str, Any]) -> bool:
    """Whether an event says that the update is in the outbox.

    Raises:
        DataError, WorkFailed: it says what is wrong instead.
        Stopped: the worker was told to stop.
    """
    match message["event"]:
        case event if event == FINISHED:
            return True
        case event if event == FAILED:
            for kind in (NoExamples, DataError):
                if message["code"] == kind.code:
                    raise kind(message["reason"])
            raise WorkFailed(message["code"], message["reason"])
        case event if event == STOPPED:
            raise Stopped("The worker was told to stop.")
    return False

"""A device that does all but send: it shows what the upload would be, and gives its task back."""

import subprocess
from typing import Any, NoReturn

from edge.device import Device
from edge.errors import NoRun, Refused, Stopped
from edge.itself import own_command
from edge.outbox import Finished
from protos.ravan.v1 import fleet_pb2 as pb
from ravan.cli.output import Format

CODE = "dry-run"
SENTENCE = "The owner of the device looked at an update without sending it."
"""What the server is told of a task that is given back."""
NOTHING_TO_DO = {pb.WAIT_REASON_NO_RUN, pb.WAIT_REASON_RUN_FINISHED}


class Rehearsal(Device):
    """Takes one task and trains; an update that waits to be sent already is shown instead, and stays.

    ``as_json`` says whether it is shown to a program.
    """

    def __init__(self, *arguments: Any, as_json: bool) -> None:
        super().__init__(*arguments)
        self._as_json, self._took_a_task = as_json, False

    def _do(self, task: pb.Task) -> None:
        self._took_a_task = True
        super()._do(task)

    def _deliver(self) -> None:
        finished = self._desk.finished
        if finished is not None:
            self._show(finished)

    def _is_last(self, wait: pb.Wait) -> bool:
        if wait.reason in NOTHING_TO_DO:
            raise NoRun("The server has no run to try out now: ask again later.")
        return super()._is_last(wait)

    def _show(self, finished: Finished) -> NoReturn:
        """Raises Stopped once all is shown."""
        binding = finished.header.binding
        bundle, output = self._home.folder_of(binding.bundle_id), Format.JSON if self._as_json else Format.TEXT
        # In a process of its own, for this one loads no numpy.
        subprocess.run([*own_command("_show"), str(self._desk.folder), str(bundle), output], check=True)
        if self._took_a_task:
            self._desk.clear()
            try:
                self._client.report_failure(binding, CODE, SENTENCE)
            except Refused as error:
                self._log.warning("task not given back", code=error.code, reason=str(error))
        raise Stopped("It showed what it would send, and sent nothing.")

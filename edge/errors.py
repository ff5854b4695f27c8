"""What can go wrong on a device.

RavanError
├── Refused    the server refused a call, with its code and sentence
│   └── NotLetIn   it does not let this device in
├── NotEnrolled    the device has no key that a server knows
├── Stopped    the client is told to end while it waits
├── Diverged   the local run left the numbers
├── WorkFailed the worker says that a local run came to nothing, with its code
├── WorkerEnded    the worker crashed, or was killed
├── RoundOver  the round was over before the local run
├── NoRun      the server has no task for who wants to try one
└── TaskFailed a task that came to nothing; the reason is in the log
"""

from ravan.errors import RavanError


class Refused(RavanError):
    """The server refused a call; ``code`` is the server's, such as "stale-round"."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class NotLetIn(Refused):
    """The server does not let this device in, and would not if it called again."""

    exit_code = 7


class NotEnrolled(RavanError):
    """The device has no key that a server knows."""

    code = "not-enrolled"
    exit_code = 7


class NoRun(RavanError):
    """The server has no run, so that there is no task to try."""

    code = "no-run"
    exit_code = 6


class Stopped(RavanError):
    """The client is told to end."""

    code = "stopped"
    exit_code = 130


class Diverged(RavanError):
    """The loss or a gradient of the local run is not finite."""

    code = "diverged"


class WorkFailed(RavanError):
    """A local run came to nothing; ``code`` is that of the error in the worker."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class WorkerEnded(RavanError):
    """The worker crashed, or was killed; what it had kept is there."""

    code = "worker-ended"


class RoundOver(RavanError):
    """The round was over before the local run."""

    code = "round-over"


class TaskFailed(RavanError):
    """A task came to nothing; the reason is in the log, and the next one is tried after a wait."""

    code = "task-failed"

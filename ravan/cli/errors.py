"""The edge of a command line: an error a user can cause becomes one sentence and an exit code.

0 done   1 a defect of ours   2 usage   3 bad input   4 no usable example   5 the machine refuses
6 the server does not answer   7 server and device do not trust one another   130 stopped with Ctrl-C
"""

import errno
import os
import sys
from collections.abc import Callable

from ravan.errors import DiskFull, EnvironmentProblem, RavanError

DEBUG_VARIABLE = "RAVAN_DEBUG"
INTERRUPTED = 130
_FULL = {errno.ENOSPC, errno.EDQUOT}
_ADVICE = {
    **dict.fromkeys(_FULL, "free some space and start again"),
    errno.EACCES: "give this user permission or choose another place",
    errno.EPERM: "give this user permission or choose another place",
    errno.EEXIST: "choose a folder, not a file",
    errno.ENOTDIR: "choose a folder, not a file",
    errno.EROFS: "choose a folder on a writable disk",
    errno.EADDRINUSE: "choose another port or stop the program that uses it",
}


def run(app: Callable[[], object]) -> None:
    """Runs a typer app and ends the process; a traceback is shown only for our own defects, or on request."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except RavanError as error:
        _fail(error)
    except OSError as error:
        if error.errno not in _ADVICE:
            raise
        _fail(explain_os_error(error))


def explain_os_error(error: OSError) -> EnvironmentProblem:
    """The sentence for an operating system's refusal."""
    what = f"{error.filename}: " if error.filename else ""
    advice = _ADVICE.get(error.errno or 0, "check the path and the machine")
    kind = DiskFull if error.errno in _FULL else EnvironmentProblem
    return kind(f"{what}{error.strerror or error}: {advice}.")


def _fail(error: RavanError) -> None:
    if os.environ.get(DEBUG_VARIABLE):
        raise error
    sys.stderr.write(f"error: {error}\n")
    sys.exit(error.exit_code)

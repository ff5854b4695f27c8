"""Making the worker a good guest on its machine: what it may take of processor, disk and memory."""

import contextlib
import ctypes
import os
import platform
import resource
from pathlib import Path

import structlog

from edge.job import Priority

log = structlog.get_logger()
NICE = 10
IDLE_CLASS = 3 << 13
"""Of ``ioprio_set``: the disk is used when nobody else wants it."""
IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
STACKS = 256 << 20  # bytes that threads may use of their stacks, of which they use little
MOST_KILLABLE = "1000"
OOM_SCORE = Path("/proc/self/oom_score_adj")


def lower(priority: Priority) -> None:
    """Lets others go first, as far as the system has words for it; for want of memory this process is ended first.

    Holds for the threads and processes that this one starts from now on.
    """
    with contextlib.suppress(OSError):
        OOM_SCORE.write_text(MOST_KILLABLE, "ascii")
    if priority is Priority.NORMAL:
        return
    os.nice(NICE)
    with contextlib.suppress(OSError, AttributeError):
        policy = os.SCHED_IDLE if priority is Priority.IDLE else os.SCHED_BATCH
        os.sched_setscheduler(0, policy, os.sched_param(0))
    number = IOPRIO_SET.get(platform.machine())
    if number is not None:
        ctypes.CDLL(None).syscall(number, 1, 0, IDLE_CLASS)


def limit_memory(size: int | None, mapped: int) -> None:
    """Most bytes of memory of its own that this process may have, beside ``mapped`` bytes of files; None for any.

    What goes beyond is refused, which ends the local run with an error instead of the owner's programs.
    """
    if size is None:
        return
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    wanted = size + mapped + STACKS  # the kernel counts both in full, however little of them is in memory
    wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))

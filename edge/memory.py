"""How much memory this process has held."""

import resource
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_memory() -> int:
    """The largest resident size of this process so far, bytes.

    Linux's VmHWM begins anew with the program; ru_maxrss, the answer elsewhere, begins with the parent's size.
    """
    if STATUS.exists():
        for line in STATUS.read_text("ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

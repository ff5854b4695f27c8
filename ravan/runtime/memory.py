"""How much memory this process has held."""

import resource
from pathlib import Path

MEMINFO, CONTROL_GROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
STATUS, MAPPINGS = Path("/proc/self/status"), Path("/proc/self/smaps")


def peak_memory() -> int:
    """The largest resident size of this process so far, bytes.

    Linux's VmHWM begins anew with the program; ru_maxrss, the answer elsewhere, begins with the parent's size.
    """
    if STATUS.exists():
        for line in STATUS.read_text("ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def mapped_part(file: Path) -> int:
    """Bytes of a mapped file that this process holds in memory as they are in the file; 0 where nobody says.

    What the process has changed of its own mapping is not among them: the system can't drop that.
    """
    if not MAPPINGS.exists():
        return 0
    inside, found, name = False, 0, str(file.resolve())
    for line in MAPPINGS.read_text("utf-8", "surrogateescape").splitlines():
        head, *rest = line.split(maxsplit=1)
        if not head.endswith(":"):  # a mapping's first line: addresses, rights, and what it is of
            inside = line.endswith(f" {name}")
        elif inside and head in ("Rss:", "Anonymous:"):
            found += int(rest[0].split()[0]) * (1024 if head == "Rss:" else -1024)
    return found


def available_memory() -> int | None:
    """Bytes that a process may still take before the machine swaps or kills it; None where the system does not say.

    The kernel's estimate, or what the control group still allows if that is less.
    """
    found = [value for value in (_meminfo(), _control_group()) if value is not None]
    return min(found) if found else None


def _meminfo() -> int | None:
    if not MEMINFO.exists():
        return None
    for line in MEMINFO.read_text("ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _control_group() -> int | None:
    """What the control group (v2) still allows."""
    try:
        limit, used = ((CONTROL_GROUP / name).read_text("ascii").strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return None
    return None if limit == "max" else max(int(limit) - int(used), 0)

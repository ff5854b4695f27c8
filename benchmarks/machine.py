"""What a benchmark ran on."""

import os
import platform
import re
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("onnxruntime", "numpy", "torch", "transformers", "peft")
DOT_PRODUCTS = ("avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")  # instructions for 8-bit products
CPUINFO, MEMINFO, STAT = Path("/proc/cpuinfo"), Path("/proc/meminfo"), Path("/proc/stat")
IDLE = 0.3  # load average
QUIET = 0.05  # of the cores' time; threads that wait for each other lose far more than others take


@dataclass(frozen=True)
class Machine:
    """The machine and what ran on it before.

    Attributes:
        cpu: model.
        instructions: for 8-bit products.
        cores: that a process sees.
        memory_gib: installed.
        load: averages over 1, 5 and 15 minutes before the first contender.
        versions: by package.
    """

    cpu: str
    instructions: tuple[str, ...]
    cores: int
    memory_gib: float
    load: tuple[float, float, float]
    system: str
    python: str
    versions: dict[str, str]

    @property
    def idle(self) -> bool:
        """Whether nothing else ran in the minute before."""
        return self.load[0] < IDLE


def this_machine() -> Machine:
    """As it is now."""
    cpuinfo = CPUINFO.read_text("utf-8") if CPUINFO.exists() else ""
    memory = re.search(r"MemTotal:\s*(\d+) kB", MEMINFO.read_text("ascii")) if MEMINFO.exists() else None
    flags = set(cpuinfo.split())
    return Machine(
        cpu=_cpu(cpuinfo),
        instructions=tuple(name for name in DOT_PRODUCTS if name in flags),
        cores=os.cpu_count() or 1,
        memory_gib=round(int(memory[1]) / 2**20, 1) if memory else 0.0,
        load=os.getloadavg(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        versions={package: _version(package) for package in PACKAGES},
    )


def _cpu(cpuinfo: str) -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


class Disturbance:
    """What others take of the cores while this process waits for its child; begins when it is made."""

    def __init__(self) -> None:
        self._began, self._busy, self._own = time.monotonic(), _busy_seconds(), _own_seconds()

    def share(self) -> float:
        """Of the cores' time since, stolen time included; 0 where the system does not say."""
        seconds = (time.monotonic() - self._began) * (os.cpu_count() or 1)
        return max(_busy_seconds() - self._busy - (_own_seconds() - self._own), 0.0) / seconds


def _busy_seconds() -> float:
    """Of all cores since the machine started."""
    if not STAT.exists():
        return 0.0
    user, nice, system, _idle, _waiting, *rest = map(int, STAT.read_text("ascii").splitlines()[0].split()[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"

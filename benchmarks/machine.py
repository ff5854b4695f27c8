"""What a benchmark ran on."""

import os
import platform
import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("onnxruntime", "numpy", "torch", "transformers", "peft")
DOT_PRODUCTS = ("avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")  # instructions for 8-bit products
CPUINFO, MEMINFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")
IDLE = 0.3


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
        versions={package: version(package) for package in PACKAGES},
    )


def _cpu(cpuinfo: str) -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()

"""How long the binary takes to start."""

import os
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.devices.figures import Start

COMMANDS = (("--version",), ("--help",))
TIMES = 7


def starts(program: Path) -> tuple[Start, ...]:
    """Of every command, cold and warm, in turn."""
    return tuple(measured(program, command) for command in COMMANDS)


def measured(program: Path, arguments: Sequence[str]) -> Start:
    """One command."""
    cold, warm = [], []
    for _ in range(TIMES):
        forget(program.parent)
        cold.append(seconds(program, arguments))
        warm.append(seconds(program, arguments))
    return Start(" ".join(arguments), statistics.median(cold), statistics.median(warm))


def seconds(program: Path, arguments: Sequence[str]) -> float:
    """Of one run."""
    began = time.perf_counter()
    subprocess.run([program, *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def forget(folder: Path) -> None:
    """Drops a folder's files from the page cache."""
    os.sync()  # what is not on the disk yet can't be dropped
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

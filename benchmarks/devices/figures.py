"""Figures of binaries, kept as JSON."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ravan.files import write_atomically


@dataclass(frozen=True)
class Start:
    """How long a command takes from nothing to its end, seconds.

    Attributes:
        command: of ravan-edge.
        cold: with the binary's files out of the page cache, the median.
        warm: with them in it, the median.
    """

    command: str
    cold: float
    warm: float


@dataclass(frozen=True)
class Size:
    """How large a binary is and what it needs.

    Attributes:
        machine: as ``uname -m`` says it.
        archive: bytes of the tar.gz.
        folder: bytes on disk, unpacked.
        files: how many.
        glibc: the oldest that has every symbol.
        because: the files that name symbols of just that version.
        libraries: shared libraries that it takes from the system.
        differences: by precision, the most by which its update differs from that of the client run from source on
            x86-64, and as ``<precision>_cosine`` how alike their changes are, as ``make test-arm`` saw it.
    """

    machine: str
    archive: int
    folder: int
    files: int
    glibc: str
    because: tuple[str, ...]
    libraries: tuple[str, ...]
    differences: dict[str, float]


@dataclass(frozen=True)
class Memory:
    """Resident memory in one state of the client, bytes.

    Attributes:
        state: in words.
        client: of the process that was started.
        workers: of the processes that it started, together.
        anonymous: what of both is no mapped file, which the system could drop.
    """

    state: str
    client: int
    workers: int
    anonymous: int


@dataclass(frozen=True)
class Results:
    """One measurement: when (UTC), on what machine, in how much noise."""

    date: str
    machine: str
    load: float
    sizes: tuple[Size, ...]
    starts: tuple[Start, ...]
    memory: tuple[Memory, ...]
    work: str


KINDS = {"sizes": Size, "starts": Start, "memory": Memory}


def save(path: Path, results: Results) -> None:
    """Writes them."""
    write_atomically(path, (json.dumps(asdict(results), indent=2) + "\n").encode())


def load(path: Path) -> Results:
    """Reads what ``save`` wrote."""
    value = json.loads(path.read_text("utf-8"))
    for size in value["sizes"]:
        size |= {name: tuple(size[name]) for name in ("because", "libraries")}
    lists = {name: tuple(kind(**each) for each in value[name]) for name, kind in KINDS.items()}
    return Results(**value | lists)

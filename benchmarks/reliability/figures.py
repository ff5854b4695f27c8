"""Figures of promises, kept as JSON: what was tried, what was aimed at, what came out."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ravan.files import write_atomically


@dataclass(frozen=True)
class Figure:
    """One line of a promise.

    Attributes:
        promise: its number, see ``promises.py``.
        what: was tried or counted, in words.
        target: what the promise asks for.
        measured: what was seen.
        met: whether it is what was asked for.
    """

    promise: int
    what: str
    target: str
    measured: str
    met: bool


@dataclass(frozen=True)
class Measurement:
    """One run of a promise's module: what it gave, when (UTC), in how many seconds, on what machine."""

    module: str
    date: str
    seconds: float
    machine: str
    figures: tuple[Figure, ...]


def load(path: Path) -> dict[str, Measurement]:
    """Earlier measurements by module; none if the file is not there."""
    if not path.exists():
        return {}
    found = {}
    for entry in json.loads(path.read_text("utf-8")):
        figures = tuple(Figure(**figure) for figure in entry.pop("figures"))
        found[entry["module"]] = Measurement(**entry, figures=figures)
    return found


def save(path: Path, measurements: Sequence[Measurement]) -> None:
    """Writes all measurements, in the order given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps([asdict(measurement) for measurement in measurements], indent=2)
    write_atomically(path, f"{text}\n".encode())

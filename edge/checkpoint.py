"""Where a local run stands, on disk: a run that was cut off goes on there and ends with the same bits.

A safetensors file behind its sha256. Its metadata hold the key of the run, the losses, the seconds taken, and the
generator's state; its tensors the trainables, the chosen heads, the optimizer's moments, and the order of the examples
to come. A file of another run, or one that is damaged, is dropped.
"""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from edge.outbox import SECRET
from edge.training import MiniBatches, Standing
from ravan.faults import reached
from ravan.files import write_atomically
from ravan.spec import AdapterSpec, canonical_json

log = structlog.get_logger()
SHARE = 50
"""A checkpoint that took t seconds is followed by none for SHARE * t: on a slow disk it costs 2% of the time."""


class Checkpoints:
    """Keeps one local run on disk; a ``Keeper`` of ``edge.training``.

    It sets batches and generator where they were, so both must be those of the run, unused. A disk that is full costs
    the checkpoints and not the run.

    Attributes:
        seconds: least time between two checkpoints; 0 for one after every step.
    """

    def __init__(
        self, path: Path, key: str, spec: AdapterSpec, batches: MiniBatches, generator: np.random.Generator,
        seconds: float,
    ) -> None:  # fmt: skip
        self.seconds = seconds
        self._path, self._key, self._spec = path, key, spec
        self._batches, self._generator = batches, generator
        self._next = time.monotonic() + seconds

    def begun(self) -> Standing | None:
        """As ``Keeper.begun``."""
        try:
            found = self._path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            standing = self._read(found)
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            log.warning("checkpoint dropped", reason=str(error))
            self._path.unlink()
            return None
        log.info("local run goes on", step=len(standing.losses))
        return standing

    def keep(self, standing: Callable[[], Standing]) -> None:
        """As ``Keeper.keep``."""
        began = time.monotonic()
        if began < self._next:
            return
        try:
            self.write(standing())
        except OSError as error:
            log.warning("no checkpoint", reason=error.strerror)
        took = time.monotonic() - began
        self._next = began + took + max(self.seconds, SHARE * took if self.seconds else 0)

    def write(self, standing: Standing) -> None:
        """Keeps it, durably, instead of the former one."""
        tensors: dict[str, NDArray[Any]] = {f"moments.{name}": value for name, value in standing.moments.items()}
        tensors |= {
            "trainables": standing.trainables,
            "heads": standing.heads,
            "order": np.array(self._batches.order, np.int64),
        }
        metadata = {
            "key": self._key,
            "losses": canonical_json(standing.losses),
            "seconds": canonical_json(standing.seconds),
            "generator": canonical_json(self._generator.bit_generator.state),
        }
        data = save(tensors, metadata)
        write_atomically(self._path, hashlib.sha256(data).digest() + data, SECRET)
        reached("checkpoint-kept")

    def _read(self, found: bytes) -> Standing:
        """Raises ValueError, KeyError, TypeError or SafetensorError if it is no checkpoint of this run."""
        data = found[32:]
        if hashlib.sha256(data).digest() != found[:32]:
            raise ValueError("the file is damaged")
        metadata = _metadata(data)
        if metadata["key"] != self._key:
            raise ValueError("it is of another local run")
        tensors = load(data)
        trainables, heads = tensors["trainables"].copy(), tensors["heads"].astype(np.bool_)
        if trainables.shape != (self._spec.size,) or heads.shape != self._spec.H_shape[:2]:
            raise ValueError("it is of another adapter")
        moments = {name.removeprefix("moments."): t for name, t in tensors.items() if name.startswith("moments.")}
        losses = [float(loss) for loss in json.loads(metadata["losses"])]
        seconds, state = float(json.loads(metadata["seconds"])), json.loads(metadata["generator"])
        self._generator.bit_generator.state = state
        self._batches.order = tensors["order"].tolist()
        return Standing(trainables, heads, moments, losses, seconds)


def run_key(**parts: object) -> str:
    """What tells a local run from all others, of JSON-ready values and texts: sha256, hex."""
    return hashlib.sha256(canonical_json({name: str(value) for name, value in parts.items()}).encode()).hexdigest()


def stamp(path: Path) -> str:
    """Tells whether a data file, or any file of a folder, was changed: by names, sizes and times of change."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    found = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.exists()]
    return hashlib.sha256(repr(found).encode()).hexdigest()


def _metadata(data: bytes) -> dict[str, Any]:
    """Of a safetensors file: its head is JSON behind its length."""
    length = int.from_bytes(data[:8], "little")
    found: dict[str, Any] = json.loads(data[8 : 8 + length])["__metadata__"]
    return found

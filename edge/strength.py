"""What this device is seen to do with a bundle, and what it takes on because of that; without numpy, for the client.

A file for each bundle, below the home's ``strength`` folder: seconds of an example by how deep the backward pass goes,
the memory that was free, and the cores. The worker measures the first of it with two steps on the device's own data and
refreshes it with every local run. ``decide`` is a pure function of it.

A sequence is never cut shorter than the bundle's ``max_length`` for want of time or memory: the device would then train
on other examples than those that the federation is judged by. Parts of a mini-batch are padded to their own longest
example alone, so that short texts cost little anyway.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ravan.bundle import Manifest
from ravan.files import write_atomically
from ravan.room import fitting_tokens
from ravan.spread import Spread, layers_for_budget
from ravan.strength import Work, expected_seconds, fitting_budget, sensible

STRENGTH = "strength"
NEWS = 0.5
"""Weight of the newest run against all that is known: a device may be busy for an hour."""


@dataclass(frozen=True)
class Strength:
    """A device's, with one bundle.

    Attributes:
        times: seconds of an example by depth, the share of the layers that the backward pass goes through.
        memory: bytes that were free when it was last measured; None where the system does not say.
        cores: of the machine.
    """

    times: Mapping[float, float] = field(default_factory=dict)
    memory: int | None = None
    cores: int = 1

    @classmethod
    def read(cls, home: Path, bundle_id: str) -> "Strength":
        """What is known; nothing if there is no file, or one that is of no use."""
        try:
            found = json.loads((home / STRENGTH / f"{bundle_id}.json").read_bytes())
            times = {float(depth): float(seconds) for depth, seconds in found["times"].items()}
            known = cls(times, None if found["memory"] is None else int(found["memory"]), int(found["cores"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls()
        return known if sensible(times) else cls()

    def write(self, home: Path, bundle_id: str) -> None:
        """Keeps it."""
        path = home / STRENGTH / f"{bundle_id}.json"
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, json.dumps(asdict(self), sort_keys=True).encode())

    def learned(self, depth: float, seconds: float, memory: int | None) -> "Strength":
        """With one measurement more, of an example in seconds."""
        before = self.times.get(depth, seconds)
        times = {**self.times, depth: before + NEWS * (seconds - before)}
        return replace(self, times=times, memory=memory, cores=os.cpu_count() or 1)


@dataclass(frozen=True)
class Share:
    """What a device takes on in a round.

    Attributes:
        head_budget: share of the heads.
        tokens: computed at a time.
        in_time: whether it is expected to be done in time; also if nobody knows.
    """

    head_budget: float
    tokens: int
    in_time: bool = True


def decide(manifest: Manifest, spread: Spread, strength: Strength, work: Work, most: float) -> Share:
    """The largest share of the heads, ``most`` at most, that is done in time, in parts that fit into memory."""
    budget = fitting_budget(spread, strength.times, work, most)
    layers = len(manifest.adapter.layers)
    seconds = expected_seconds(strength.times, layers_for_budget(spread, budget, layers) / layers)
    late = seconds is not None and work.seconds is not None and work.examples * seconds > work.seconds
    return Share(budget, fitting_tokens(manifest, strength.memory), not late)


def all_known(home: Path) -> dict[str, Strength]:
    """What is known of each bundle, by its id; of the latest the last."""
    files = sorted((home / STRENGTH).glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    return {path.stem: Strength.read(home, path.stem) for path in files}

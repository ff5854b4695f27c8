"""A dataset of a user's own, of numpy alone: sequences of different lengths."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

CHANNELS, TAGS = 3, 4


class Walks:
    """Out of a folder that holds a seed; the tag of a step is its largest channel, one more if none is above 0."""

    def __init__(self, path: Path, bundle: object) -> None:
        self._seed = int((path / "seed.txt").read_text())

    @classmethod
    def of_seed(cls, seed: int) -> "Walks":
        """Without a folder."""
        walks = cls.__new__(cls)
        walks._seed = seed
        return walks

    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        generator = np.random.default_rng([self._seed, index])
        x = generator.normal(0, 1, (int(generator.integers(1, 12)), CHANNELS))
        return {"x": x, "present": np.ones(len(x), bool), "labels": np.where(x.max(1) < 0, CHANNELS, x.argmax(1))}


def write_seed(folder: Path, seed: int = 1) -> Path:
    """The folder that ``Walks`` reads."""
    folder.mkdir()
    (folder / "seed.txt").write_text(str(seed))
    return folder

"""What hostile devices send: five attacks, from crude to one that passes every check at the door."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from ravan.layout import Vector
from ravan.runtime.examples import Examples
from ravan.runtime.names import LABELS
from ravan.runtime.session import Batch
from ravan.update import Update

FLIPPED, SCALED, NOISE = -4.0, 100.0, 1.0


class Attack(StrEnum):
    """Which attack; all hostile devices of a round do the same, each with its own data and random numbers."""

    SIGN_FLIP = "sign flip"
    LARGE_SCALE = "large scale"
    NOT_A_NUMBER = "NaN"
    NOISE = "Gaussian noise"
    LABEL_FLIP = "label flip"

    @property
    def trains(self) -> bool:
        """Whether it needs an honest local run first."""
        return self not in (Attack.NOT_A_NUMBER, Attack.NOISE)

    @property
    def says(self) -> str:
        """What is sent, for the report."""
        return {
            Attack.SIGN_FLIP: f"the honest change times {FLIPPED:g}",
            Attack.LARGE_SCALE: f"the honest change times {SCALED:g}",
            Attack.NOT_A_NUMBER: "NaN in every value",
            Attack.NOISE: f"normal noise of deviation {NOISE:g} on every value",
            Attack.LABEL_FLIP: "an honest local run on labels turned round, the first for the last",
        }[self]


def forge(attack: Attack, base: Update, trained: Update, generator: np.random.Generator) -> Update:
    """What a hostile device sends in place of ``trained``; both updates carry every head."""

    def by(values: Vector, before: Vector) -> Vector:
        match attack:
            case Attack.SIGN_FLIP:
                return before + np.float32(FLIPPED) * (values - before)
            case Attack.LARGE_SCALE:
                return before + np.float32(SCALED) * (values - before)
            case Attack.NOT_A_NUMBER:
                return np.full_like(before, np.nan)
            case Attack.NOISE:
                return before + (NOISE * generator.standard_normal(before.shape)).astype(np.float32)
            case Attack.LABEL_FLIP:
                return values

    return Update(base.heads, by(trained.sH, base.sH), by(trained.saved, base.saved))


@dataclass(frozen=True)
class LabelsTurnedRound:
    """Examples of which the first label says the last, the second the last but one, and so on."""

    examples: Examples
    classes: int

    @property
    def skipped(self) -> int:
        """As ``Examples.skipped``."""
        return self.examples.skipped

    def __len__(self) -> int:
        return len(self.examples)

    def tokens(self, index: int) -> int:
        """As ``Examples.tokens``."""
        return self.examples.tokens(index)

    def batch(self, indices: Sequence[int]) -> Batch:
        """As ``Examples.batch``."""
        batch = self.examples.batch(indices)
        return {**batch, LABELS: self.classes - 1 - batch[LABELS]}

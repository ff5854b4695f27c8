"""How far an update moved, and the bound beyond which it is not taken.

Norms are Frobenius norms of a part's change against the round's base. Each head is measured alone, for a client that
puts all its weight on one head would hide in the norm of the whole.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravan.errors import NormTooLarge
from ravan.parts import parts_of
from ravan.update import Update


@dataclass(frozen=True)
class Norms:
    """Of an update, or the bound on it.

    Attributes:
        head: the largest norm of a head's change.
        saved: the norm of the saved tensors' change, all together.
    """

    head: float
    saved: float


def part_norms(base: Update, update: Update) -> NDArray[np.float64]:
    """The norm of every part's change, [layers * heads + 1]; NaN for heads that are not carried.

    ``base`` carries every head. Squares are formed in float64, where those of finite float32 values do not overflow.
    """
    norms = np.full(base.heads.size + 1, np.nan)
    before = parts_of(base)
    for part, values in parts_of(update).items():
        norms[part] = math.sqrt(np.square(np.subtract(values, before[part], dtype=np.float64)).sum())
    return norms


def measure(base: Update, update: Update) -> Norms:
    """How far an update moved from ``base``; 0 for the heads if it carries none."""
    norms = part_norms(base, update)
    return Norms(float(np.nanmax(norms[:-1], initial=0.0)), float(norms[-1]))


def bound(earlier: Sequence[Norms], largest: Norms, ratio: float) -> Norms:
    """The largest norms to be taken; infinite where nothing bounds them.

    Args:
        earlier: the norms of updates counted in earlier rounds; with fewer than half of them hostile, their median is
            one of an honest update's size.
        largest: absolute bounds; 0 for none.
        ratio: bound relative to the median of ``earlier``; 0 for none.
    """
    return Norms(
        min(largest.head or math.inf, _relative([norms.head for norms in earlier], ratio)),
        min(largest.saved or math.inf, _relative([norms.saved for norms in earlier], ratio)),
    )


def check(norms: Norms, largest: Norms) -> None:
    """Refuses an update that moved too far.

    Raises:
        NormTooLarge: a head's norm, or the saved tensors', is above its bound.
    """
    for what, found, allowed in (
        ("a head", norms.head, largest.head),
        ("the modules trained whole", norms.saved, largest.saved),
    ):
        if found > allowed:
            raise NormTooLarge(
                f"The update changes {what} by a norm of {found:.4g}, at most {allowed:.4g} is taken: "
                "lower the learning rate or check the data."
            )


def _relative(earlier: Sequence[float], ratio: float) -> float:
    """Without earlier norms, or where most are 0, there is nothing to compare with."""
    median = statistics.median(earlier) if earlier else 0.0
    return ratio * median or math.inf

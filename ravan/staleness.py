"""Updates that began from an older adapter than the current one: their change counts for less the older it is.

As in FedBuff (Nguyen et al., AISTATS 2022, arXiv 2106.06639): a buffer of K changes, each scaled by s(tau), is averaged
over K, not over the sum of the scales, so that a buffer of old changes moves the adapter less.
"""

import math

import numpy as np

from ravan.layout import Vector
from ravan.update import Update


def scale_of(staleness: int) -> float:
    """s(tau) = 1 / sqrt(1 + tau), where tau adapters were published since the update began (FedBuff, section 5)."""
    return 1 / math.sqrt(1 + staleness)


def carried_over(update: Update, base: Update, current: Update, staleness: int) -> Update:
    """The update as if it had begun from ``current``: x + s(tau) (y - b) for each head it carries and what is saved.

    Args:
        update: y.
        base: b, which the device began from; carries every head.
        current: x; carries every head.
        staleness: tau; 0 where b is x, which leaves y as it is, to the bit.
    """
    if staleness == 0:
        return update
    carried, scale = update.heads.ravel(), scale_of(staleness)
    sH = _moved(current.sH[carried], update.sH, base.sH[carried], scale)
    return Update(update.heads, sH, _moved(current.saved, update.saved, base.saved, scale))


def _moved(x: Vector, y: Vector, b: Vector, scale: float) -> Vector:
    """In float64; what leaves the range of float32 stays at its largest value."""
    largest = np.finfo(np.float32).max
    change = np.subtract(y, b, dtype=np.float64)
    return np.clip(x + scale * change, -largest, largest).astype(np.float32)

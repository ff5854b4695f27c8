"""The server's mean: per head, over the clients that trained it (paper section 4, step 4)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ravan.errors import SettingsError
from ravan.spec import AdapterSpec
from ravan.update import Update


@dataclass(frozen=True)
class Contribution:
    """One client's part in a round.

    Attributes:
        key: identifies the contribution; the fold runs in the order of the keys, whatever the order of arrival.
        load: reads the update, so that one at a time is in memory.
        weight: 1 for the paper's uniform mean, or the client's number of examples.
    """

    key: str
    load: Callable[[], Update]
    weight: float = 1.0


def average(spec: AdapterSpec, current: Update, contributions: Sequence[Contribution]) -> Update:
    """H_i <- mean over the clients C_i that trained head i of s_i H_i; saved tensors over all clients.

    B_i and A_i are shared and frozen, so the mean of s_i H_i is the mean of the full weight changes. A head that
    nobody trained keeps its value in ``current``, which carries every head. Sums are float64 in the order of the
    keys: the same contributions give the same bits in any order of arrival.

    Raises:
        SettingsError: two contributions share a key, or a weight is not positive.
    """
    if len({c.key for c in contributions}) < len(contributions):
        raise SettingsError("A contribution stands twice in a round: count each client once.")
    if any(c.weight <= 0 for c in contributions):
        raise SettingsError("A contribution's weight must be positive: leave out clients without examples.")
    sH_sum = np.zeros(spec.H_shape)
    head_weight = np.zeros(spec.H_shape[:2])
    saved_sum = np.zeros(spec.saved_size)
    for contribution in sorted(contributions, key=lambda c: c.key):
        update = contribution.load()
        sH_sum[update.heads] += contribution.weight * update.sH.astype(np.float64)
        head_weight[update.heads] += contribution.weight
        saved_sum += contribution.weight * update.saved.astype(np.float64)
    if not contributions:
        return current
    trained = head_weight > 0
    sH = current.sH.reshape(spec.H_shape).copy()
    sH[trained] = sH_sum[trained] / head_weight[trained][:, None, None]
    return Update.full(sH, (saved_sum / sum(sorted(c.weight for c in contributions))).astype(np.float32))

"""How a round's updates become one: what every rule has in common, and the two that run through them one by one.

A rule treats every part, a head or the saved tensors together, alone and over the clients that carry it. Each says
with its breakdown point how many hostile clients among how many it bears. A part carried by too few to bear the stated
share is left out of the result, so that the run keeps its value: a hostile client could otherwise own a head that
hardly anybody else trains.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import numpy as np

from ravan.aggregate import Contribution, Fold, in_order, loaded, mean
from ravan.errors import SettingsError
from ravan.norms import part_norms
from ravan.parts import parts_of, update_of
from ravan.spec import AdapterSpec
from ravan.update import Update


class RuleName(StrEnum):
    """Which rule."""

    MEAN = "mean"
    CLIPPED_MEAN = "clipped-mean"
    MEDIAN = "median"
    TRIMMED_MEAN = "trimmed-mean"
    MULTI_KRUM = "multi-krum"


@dataclass(frozen=True)
class Rule(ABC):
    """Combines the contributions of a round, part by part, the same to the bit in any order of arrival.

    Attributes:
        attackers: share of a part's updates that may be hostile.

    Raises:
        SettingsError: no number of clients bears such a share.
    """

    name: ClassVar[RuleName]
    breakdown: ClassVar[float] = 0.5
    """The share that no number of clients bears; every smaller one is borne from some number on."""

    attackers: float = 0.0

    def __post_init__(self) -> None:
        if self.attackers and not 0 < self.attackers < self.breakdown:
            bears = f"bears shares below {self.breakdown:.0%}" if self.breakdown else "bears no hostile update"
            raise SettingsError(
                f"The {self.name} {bears}, not {self.attackers:.0%}: lower --attackers or choose another --aggregation."
            )

    @abstractmethod
    def __call__(self, spec: AdapterSpec, base: Update, contributions: Sequence[Contribution]) -> Update:
        """The combined update, with the heads that enough clients trained; ``base`` is what the round started from.

        Without enough contributions for the saved tensors these are the base's.
        """

    def tolerates(self, clients: int) -> int:
        """The breakdown point: how many of so many clients may be hostile; negative if the rule does not work."""
        return (clients - 1) // 2

    def hostile(self, clients: int) -> int:
        """How many of so many clients to be ready for: the stated share, rounded up."""
        return math.ceil(self.attackers * clients - 1e-9)

    def bears(self, clients: int) -> bool:
        """Whether so many clients are enough for the stated share."""
        return clients > 0 and self.hostile(clients) <= self.tolerates(clients)

    @property
    def least_clients(self) -> int:
        """The number of clients from which on any number bears the stated share."""
        beyond = math.ceil(3 / (0.5 - self.attackers))  # every rule tolerates n / 2 - 2 of n, and rounding adds 1
        return max((n for n in range(1, beyond + 1) if not self.bears(n)), default=0) + 1


@dataclass(frozen=True)
class Mean(Rule):
    """The paper's mean, weighted if the contributions are.

    Breakdown point 0: a single client moves the result anywhere. A head trained by one client becomes that client's.
    Memory: one adapter.
    """

    name = RuleName.MEAN
    breakdown = 0.0

    def __call__(self, spec: AdapterSpec, base: Update, contributions: Sequence[Contribution]) -> Update:
        return mean(spec, base, contributions)

    def tolerates(self, clients: int) -> int:
        return 0


@dataclass(frozen=True)
class ClippedMean(Rule):
    """The mean after every part's change is scaled down to a norm of at most c.

    Breakdown point 1/2: c is the median of the clients' norms, which with f of n clients hostile and f <= (n - 1) // 2
    is at most the largest honest norm R. The combined change then has at most norm R, of which the hostile clients
    contribute at most R f / n. It bounds how far they push, not where: f / n of the result is theirs. Honest updates
    longer than c are shortened too. Clients count alike. Memory: one adapter, and a number per client and part; updates
    are read twice. (Norm clipping: Sun et al., arXiv 1911.07963.)
    """

    name = RuleName.CLIPPED_MEAN

    def __call__(self, spec: AdapterSpec, base: Update, contributions: Sequence[Contribution]) -> Update:
        ordered, before, fold = in_order(contributions), parts_of(base), Fold()
        norms = np.array([part_norms(base, update) for update in loaded(ordered)]).reshape(
            len(ordered), spec.s_size + 1
        )
        clients = (~np.isnan(norms)).sum(axis=0)
        enough = [self.bears(int(n)) for n in clients]
        allowed = np.zeros(spec.s_size + 1)
        allowed[clients > 0] = np.nanmedian(norms[:, clients > 0], axis=0)
        for update, own in zip(loaded(ordered), norms, strict=True):
            for part, values in parts_of(update).items():
                if enough[part]:
                    kept = min(1.0, allowed[part] / own[part]) if own[part] else 1.0
                    # This form leaves a change that is not clipped as it is, to the bit.
                    fold.add(part, (1 - kept) * before[part].astype(np.float64) + kept * values, 1.0)
        return update_of(spec, fold.means(), base)

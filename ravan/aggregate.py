"""The server's mean: per head, over the clients that trained it (paper section 4, step 4)."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from ravan.errors import SettingsError
from ravan.layout import Vector
from ravan.parts import Values, over, parts_of, update_of
from ravan.spec import AdapterSpec
from ravan.update import Update


@dataclass(frozen=True)
class Contribution:
    """One client's part in a round.

    Attributes:
        key: identifies the contribution; rules go through a round in the order of the keys, whatever the order of
            arrival.
        load: reads the update, so that few at a time are in memory.
        weight: 1 for the paper's uniform mean, or the client's number of examples.
    """

    key: str
    load: Callable[[], Update]
    weight: float = 1.0


@dataclass(frozen=True)
class Fold:
    """A running sum of every part in float64: the memory of one adapter, however many clients are added."""

    sums: dict[int, Values] = field(default_factory=dict)
    weights: dict[int, float] = field(default_factory=dict)

    def add(self, part: int, values: Vector | Values, weight: float) -> None:
        """Adds one client's values of a part."""
        if part not in self.sums:
            self.sums[part], self.weights[part] = np.zeros(len(values)), 0.0
        weighted = values if weight == 1.0 else np.multiply(values, weight, dtype=np.float64)
        np.add(self.sums[part], weighted, out=self.sums[part])
        self.weights[part] += weight

    def means(self) -> dict[int, Values]:
        """The mean of every part that anybody added."""
        return {part: total / self.weights[part] for part, total in self.sums.items()}


def in_order(contributions: Sequence[Contribution]) -> list[Contribution]:
    """The contributions by their keys: the same ones give the same bits in any order of arrival.

    Raises:
        SettingsError: two contributions share a key, or a weight is not positive.
    """
    if len({c.key for c in contributions}) < len(contributions):
        raise SettingsError("A contribution stands twice in a round: count each client once.")
    if any(c.weight <= 0 for c in contributions):
        raise SettingsError("A contribution's weight must be positive: leave out clients without examples.")
    return sorted(contributions, key=lambda c: c.key)


def loaded(contributions: Sequence[Contribution]) -> Iterator[Update]:
    """The contributions' updates, the next of which is read while the caller works with one."""
    with ThreadPoolExecutor(1, "updates") as reader:
        coming: deque[Future[Update]] = deque()
        for contribution in contributions:
            coming.append(reader.submit(contribution.load))
            if len(coming) > 1:
                yield coming.popleft().result()
        for last in coming:
            yield last.result()


def mean(spec: AdapterSpec, base: Update, contributions: Sequence[Contribution]) -> Update:
    """The mean over the clients C_i that trained head i of s_i H_i; saved tensors over all clients.

    B_i and A_i are shared and frozen, so the mean of s_i H_i is the mean of the full weight changes. The result carries
    the heads that anybody trained.

    Raises:
        SettingsError: see ``in_order``.
    """
    ordered, fold = in_order(contributions), Fold()
    for contribution, update in zip(ordered, loaded(ordered), strict=True):
        for part, values in parts_of(update).items():
            fold.add(part, values, contribution.weight)
    return update_of(spec, fold.means(), base)


def average(spec: AdapterSpec, current: Update, contributions: Sequence[Contribution]) -> Update:
    """H_i <- ``mean``: a head that nobody trained keeps its value in ``current``, which carries every head.

    Raises:
        SettingsError: see ``in_order``.
    """
    return over(current, mean(spec, current, contributions)) if contributions else current

"""The rules that must see all clients' values of a part at once: median, trimmed mean, multi-Krum.

They hold one part at a time in memory, or as many as fit; the updates are read once for every such group of parts.
Clients count alike.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravan.aggregate import Contribution, in_order, loaded
from ravan.layout import Vector
from ravan.parts import Values, part_sizes, parts_of, update_of
from ravan.rules import Rule, RuleName
from ravan.spec import AdapterSpec
from ravan.update import Update

MEMORY = 256 << 20
"""Bytes of the parts held at a time; a single part of all clients may take more."""


@dataclass(frozen=True)
class ByHead(Rule):
    """A rule that combines one part from all clients' values of it.

    Attributes:
        memory: bytes of the parts held at a time.
    """

    memory: int = MEMORY

    @abstractmethod
    def combine(self, values: Vector) -> Values:
        """One part from the values [clients, size] of the clients that carry it, in the order of their keys."""

    def __call__(self, spec: AdapterSpec, base: Update, contributions: Sequence[Contribution]) -> Update:
        ordered, combined = in_order(contributions), {}
        for group in self._groups(spec, len(ordered)):
            held: dict[int, list[Vector]] = {part: [] for part in group}
            for update in loaded(ordered):
                for part, values in parts_of(update).items():
                    if part in held:
                        held[part].append(values.copy())  # a view would keep the whole update
            for part, all_values in held.items():
                if self.bears(len(all_values)):
                    combined[part] = self.combine(np.stack(all_values))
        return update_of(spec, combined, base)

    def _groups(self, spec: AdapterSpec, clients: int) -> Iterator[range]:
        """Consecutive parts that fit into memory together."""
        sizes = [4 * clients * size for size in part_sizes(spec)]
        start = held = 0
        for part, size in enumerate(sizes):
            if held + size > self.memory and part > start:
                yield range(start, part)
                start, held = part, 0
            held += size
        yield range(start, len(sizes))


@dataclass(frozen=True)
class Median(ByHead):
    """The median of every coordinate; of the two in the middle their mean.

    Breakdown point 1/2: with f of n clients hostile and f <= (n - 1) // 2, every coordinate lies between the smallest
    and the largest honest value. (Yin et al., arXiv 1803.01498.)
    """

    name = RuleName.MEDIAN

    def combine(self, values: Vector) -> Values:
        n = len(values)
        return _mean(np.sort(values, axis=0)[(n - 1) // 2 : n // 2 + 1])


@dataclass(frozen=True)
class TrimmedMean(ByHead):
    """The mean of every coordinate without its f smallest and f largest values, f the stated share of n, rounded up.

    Breakdown point: the stated share, anything below 1/2. With at most f hostile clients and f <= (n - 1) // 2 every
    coordinate lies between the smallest and the largest honest value. (Yin et al., arXiv 1803.01498.)
    """

    name = RuleName.TRIMMED_MEAN

    def combine(self, values: Vector) -> Values:
        n, f = len(values), self.hostile(len(values))
        return _mean(np.sort(values, axis=0)[f : n - f])


@dataclass(frozen=True)
class MultiKrum(ByHead):
    """The mean of the m = n - f - 2 clients that are nearest to their n - f - 2 nearest others; f the stated share.

    Breakdown point 1/2, from n >= 2 f + 3 clients on. With at most f hostile clients, and D the largest distance
    between two honest ones, every chosen client lies within D sqrt((n - f - 2) / (n - 2 f - 1)) of an honest one: the
    hostile ones that lie farther are left out, and the nearer ones cannot pull farther. Time grows with n squared.
    (Krum: Blanchard et al., NeurIPS 2017, arXiv 1703.02757; this m: Damaskinos et al., MLSys 2019.)
    """

    name = RuleName.MULTI_KRUM

    def chosen(self, values: Vector) -> NDArray[np.intp]:
        """Who is taken, in order; among equals those with the smaller keys."""
        n, f = len(values), self.hostile(len(values))
        squares = np.zeros((n, n))
        for i in range(n - 1):
            away = np.square(np.subtract(values[i + 1 :], values[i], dtype=np.float64)).sum(axis=1)
            squares[i, i + 1 :] = squares[i + 1 :, i] = away
        nearest = np.sort(squares, axis=1)[:, 1 : n - f - 1]  # the first is the client itself, or one just as near
        return np.sort(np.argsort(nearest.sum(axis=1), kind="stable")[: n - f - 2])

    def combine(self, values: Vector) -> Values:
        return _mean(values[self.chosen(values)])

    def tolerates(self, clients: int) -> int:
        return (clients - 3) // 2


def _mean(values: Vector) -> Values:
    """The mean over the first axis in float64: rows are added one after the other."""
    means: Values = values.mean(axis=0, dtype=np.float64)
    return means

"""Server optimizers: they take the average of a round's updates as a step's direction (arXiv 2003.00295).

A head that is not in the average keeps its value, and what the optimizer remembers of it stays as it is.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from ravan.errors import MalformedUpdate
from ravan.layout import Vector
from ravan.parts import Values
from ravan.sizes import largest_size
from ravan.spec import AdapterSpec
from ravan.update import Update, decode, encode

Memory = tuple[Vector, ...]
"""What an optimizer keeps from round to round: flat vectors [H_size + saved_size]; empty before the first."""


class OptimizerKind(StrEnum):
    """Which server optimizer."""

    FEDAVG = "fedavg"
    FEDAVGM = "fedavgm"
    FEDADAM = "fedadam"
    FEDYOGI = "fedyogi"


@dataclass(frozen=True)
class ServerOptimizer(ABC):
    """Moves the adapter x towards the round's average y, by Delta = y - x; everything coordinate by coordinate.

    Attributes:
        rate: the server's learning rate, eta.
    """

    rate: float

    @abstractmethod
    def start(self) -> tuple[float, ...]:
        """The value of every vector in memory before the first round."""

    @abstractmethod
    def move(self, x: Values, y: Values, *memory: Values) -> tuple[Values, ...]:
        """The new x, and the memory after it."""

    def step(self, spec: AdapterSpec, current: Update, average: Update, memory: Memory) -> tuple[Update, Memory]:
        """The new adapter, which carries every head, and the new memory.

        Computed in float64 and kept in float32; what leaves its range stays at the largest value, so that an adapter is
        never NaN or Inf.
        """
        flat = _flat(current)
        moved = np.concatenate([np.repeat(average.heads.ravel(), spec.rank**2), np.ones(spec.saved_size, np.bool_)])
        kept = memory or tuple(np.full(len(flat), value, np.float32) for value in self.start())
        before = [vector[moved].astype(np.float64) for vector in (flat, *kept)]
        after = self.move(before[0], _flat(average).astype(np.float64), *before[1:])
        vectors = [_replaced(old, moved, new) for old, new in zip((flat, *kept), after, strict=True)]
        return _full(spec, vectors[0]), tuple(vectors[1:])


@dataclass(frozen=True)
class FedAvg(ServerOptimizer):
    """x <- x + eta Delta; with eta = 1 the average itself."""

    rate: float = 1.0

    def start(self) -> tuple[float, ...]:
        return ()

    def move(self, x: Values, y: Values, *memory: Values) -> tuple[Values, ...]:
        return ((1 - self.rate) * x + self.rate * y,)


@dataclass(frozen=True)
class FedAvgM(ServerOptimizer):
    """m <- beta m + Delta; x <- x + eta m (Hsu et al., arXiv 1909.06335)."""

    rate: float = 1.0
    beta: float = 0.9

    def start(self) -> tuple[float, ...]:
        return (0.0,)

    def move(self, x: Values, y: Values, *memory: Values) -> tuple[Values, ...]:
        m = self.beta * memory[0] + (y - x)
        return x + self.rate * m, m


@dataclass(frozen=True)
class FedAdam(ServerOptimizer):
    """m <- beta m + (1 - beta) Delta; v <- beta2 v + (1 - beta2) Delta^2; x <- x + eta m / (sqrt(v) + tau).

    v starts at tau^2, and nothing is corrected for its start (Reddi et al., algorithm 2).

    Attributes:
        beta: of the first moment m.
        beta2: of the second moment v.
        tau: the smaller, the more the steps adapt to each coordinate.
    """

    rate: float = 0.01
    beta: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def start(self) -> tuple[float, ...]:
        return 0.0, self.tau**2

    def move(self, x: Values, y: Values, *memory: Values) -> tuple[Values, ...]:
        m, v = self.beta * memory[0] + (1 - self.beta) * (y - x), self.second(memory[1], np.square(y - x))
        return x + self.rate * m / (np.sqrt(v) + self.tau), m, v

    def second(self, v: Values, squared: Values) -> Values:
        """The next second moment."""
        return self.beta2 * v + (1 - self.beta2) * squared


@dataclass(frozen=True)
class FedYogi(FedAdam):
    """As FedAdam, but v <- v - (1 - beta2) Delta^2 sign(v - Delta^2): v grows and falls by steps of Delta^2 alone."""

    def second(self, v: Values, squared: Values) -> Values:
        """The next second moment; never below 0 but by rounding."""
        return np.maximum(v - (1 - self.beta2) * squared * np.sign(v - squared), 0.0)


def encode_memory(spec: AdapterSpec, memory: Memory) -> bytes:
    """The memory's bytes: one full update after the other, exact."""
    return b"".join(encode(spec, _full(spec, vector)) for vector in memory)


def decode_memory(spec: AdapterSpec, data: bytes) -> Memory:
    """Reads what ``encode_memory`` wrote.

    Raises:
        UpdateError: these bytes are none.
    """
    size = largest_size(spec)
    if len(data) % size:
        raise MalformedUpdate("These bytes are no server optimizer's memory: the state folder is damaged.")
    return tuple(_flat(decode(spec, data[start : start + size])) for start in range(0, len(data), size))


def _flat(update: Update) -> Vector:
    """The values an update carries, heads first."""
    return np.concatenate([update.sH.ravel(), update.saved])


def _full(spec: AdapterSpec, flat: Vector) -> Update:
    return Update.full(flat[: spec.H_size].reshape(spec.H_shape), flat[spec.H_size :])


def _replaced(old: Vector, where: np.ndarray[tuple[int], np.dtype[np.bool_]], new: Values) -> Vector:
    largest = np.finfo(np.float32).max
    vector = old.copy()
    vector[where] = np.clip(new, -largest, largest)
    return vector

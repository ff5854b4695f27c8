"""Optimizers on the flat vector of trainables: each starts afresh with a local run, or goes on with one cut off."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import numpy as np

from ravan.layout import Vector
from ravan.rpc.plan import OptimizerName, TrainingPlan
from ravan.spec import AdapterSpec


class Optimizer(Protocol):
    """Changes trainables in place by one step along a gradient."""

    @property
    def moments(self) -> Mapping[str, Vector]:
        """What it remembers, by name: another one made with the same goes on where this one is."""
        ...

    def step(self, trainables: Vector, gradient: Vector) -> None:
        """Both are flat, float32, in the spec's order; entries with rate 0 stay as they are."""


class AdamW:
    """Adam with decoupled weight decay (arXiv 1711.05101), as torch.optim.AdamW computes it."""

    def __init__(
        self,
        rates: Vector,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
        moments: Mapping[str, Vector] = MappingProxyType({}),
    ) -> None:
        self._rates, self._weight_decay, self._betas = rates, weight_decay, betas
        self._mean, self._square = (_remembered(moments, name, rates) for name in ("mean", "square"))
        self._steps = int(moments["steps"][0]) if moments else 0

    @property
    def moments(self) -> Mapping[str, Vector]:
        """As ``Optimizer.moments``."""
        steps = np.array([self._steps], np.float32)  # exact: far below 2^24
        return {"mean": self._mean, "square": self._square, "steps": steps}

    def step(self, trainables: Vector, gradient: Vector) -> None:
        """As ``Optimizer.step``."""
        self._steps += 1
        first, second = self._betas
        self._mean += (1 - first) * (gradient - self._mean)
        self._square += (1 - second) * (gradient * gradient - self._square)
        trainables *= 1 - self._rates * np.float32(self._weight_decay)
        denominator = np.sqrt(self._square) / math.sqrt(1 - second**self._steps) + np.float32(1e-8)
        trainables -= self._rates / np.float32(1 - first**self._steps) * self._mean / denominator


class SGD:
    """Stochastic gradient descent with heavy-ball momentum, as torch.optim.SGD computes it."""

    def __init__(self, rates: Vector, momentum: float, moments: Mapping[str, Vector] = MappingProxyType({})) -> None:
        self._rates, self._momentum = rates, np.float32(momentum)
        self._velocity = _remembered(moments, "velocity", rates)

    @property
    def moments(self) -> Mapping[str, Vector]:
        """As ``Optimizer.moments``."""
        return {"velocity": self._velocity}

    def step(self, trainables: Vector, gradient: Vector) -> None:
        """As ``Optimizer.step``."""
        self._velocity = self._momentum * self._velocity + gradient
        trainables -= self._rates * self._velocity


def make_optimizer(
    plan: TrainingPlan, rates: Vector, moments: Mapping[str, Vector] = MappingProxyType({})
) -> Optimizer:
    """The plan's optimizer with a learning rate per trainable, and with what an earlier one remembered if any is given.

    Raises:
        KeyError, ValueError: ``moments`` are another optimizer's.
    """
    match plan.optimizer:
        case OptimizerName.ADAMW:
            return AdamW(rates, plan.weight_decay, moments=moments)
        case OptimizerName.SGD:
            return SGD(rates, plan.momentum, moments)


def _remembered(moments: Mapping[str, Vector], name: str, rates: Vector) -> Vector:
    return moments[name].copy() if moments else np.zeros_like(rates)


def learning_rates(spec: AdapterSpec, plan: TrainingPlan, trained: np.ndarray) -> Vector:
    """A rate per trainable: the plan's for H and s, its own for saved tensors, 0 for what is not trained."""
    rates = np.full(spec.size, plan.learning_rate, np.float32)
    rates[spec.H_size + spec.s_size :] = plan.saved_learning_rate
    rates[~trained] = 0
    return rates


def clip(gradient: Vector, largest: float) -> None:
    """Scales a gradient down, in place, to a norm of at most ``largest``; 0 leaves it."""
    norm = float(np.linalg.norm(gradient))
    if largest and norm > largest:
        gradient *= np.float32(largest / (norm + 1e-6))

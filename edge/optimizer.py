"""Optimizers on the flat vector of trainables; each starts afresh with every local run."""

import math
from typing import Protocol

import numpy as np

from ravan.layout import Vector
from ravan.rpc.plan import OptimizerName, TrainingPlan
from ravan.spec import AdapterSpec


class Optimizer(Protocol):
    """Changes trainables in place by one step along a gradient."""

    def step(self, trainables: Vector, gradient: Vector) -> None:
        """Both are flat, float32, in the spec's order; entries with rate 0 stay as they are."""


class AdamW:
    """Adam with decoupled weight decay (arXiv 1711.05101), as torch.optim.AdamW computes it."""

    def __init__(self, rates: Vector, weight_decay: float, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self._rates, self._weight_decay, self._betas = rates, weight_decay, betas
        self._mean, self._square = np.zeros_like(rates), np.zeros_like(rates)
        self._steps = 0

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

    def __init__(self, rates: Vector, momentum: float) -> None:
        self._rates, self._momentum = rates, np.float32(momentum)
        self._velocity = np.zeros_like(rates)

    def step(self, trainables: Vector, gradient: Vector) -> None:
        """As ``Optimizer.step``."""
        self._velocity = self._momentum * self._velocity + gradient
        trainables -= self._rates * self._velocity


def make_optimizer(plan: TrainingPlan, rates: Vector) -> Optimizer:
    """The plan's optimizer with a learning rate per trainable."""
    match plan.optimizer:
        case OptimizerName.ADAMW:
            return AdamW(rates, plan.weight_decay)
        case OptimizerName.SGD:
            return SGD(rates, plan.momentum)


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

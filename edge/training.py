"""One local run: the client's part of a round (paper section 4, steps 2 and 3)."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from edge.errors import Diverged
from edge.optimizer import clip, learning_rates, make_optimizer
from ravan.heads import Scoring, heads_for_budget, score_heads, select_heads
from ravan.layout import Vector, trained_mask
from ravan.rpc.plan import TrainingPlan
from ravan.runtime.examples import Examples, micro_batches
from ravan.runtime.session import Batch, StepResult
from ravan.spec import AdapterSpec
from ravan.update import Update

Trainer = Callable[[Vector, Batch], StepResult]
"""Loss and gradients at given trainables for one batch; hides the runtime."""


class Scope(StrEnum):
    """What of the chosen heads a local run trains: s_i alone, H_i too, or also the saved tensors, as a round does."""

    S = "s"
    HEADS = "heads"
    ALL = "all"

    def mask(self, spec: AdapterSpec, heads: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which entries of the flat vector are trained if ``heads`` [layers, heads] are chosen."""
        mask = trained_mask(spec, heads)
        if self is Scope.S:
            mask[: spec.H_size] = False
        if self is not Scope.ALL:
            mask[spec.H_size + spec.s_size :] = False
        return mask


@dataclass(frozen=True)
class LocalRun:
    """What a local run ends with.

    Attributes:
        update: s_i H_i of the trained heads and the saved tensors.
        losses: mean loss of every step's batch.
        seconds: time taken.
        heads_per_layer: K, how many heads of each layer were trained.
    """

    update: Update
    losses: tuple[float, ...]
    seconds: float
    heads_per_layer: int

    @property
    def first_loss(self) -> float:
        """Mean loss of the first quarter of the steps."""
        return _mean(self.losses[: max(len(self.losses) // 4, 1)])

    @property
    def last_loss(self) -> float:
        """Mean loss of the last quarter of the steps."""
        return _mean(self.losses[-max(len(self.losses) // 4, 1) :])


def train_locally(
    trainer: Trainer,
    spec: AdapterSpec,
    base: Update,
    batches: Iterator[Sequence[Batch]],
    plan: TrainingPlan,
    head_budget: float,
    generator: np.random.Generator,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    scope: Scope = Scope.ALL,
) -> LocalRun:
    """Picks K heads per layer, trains what of them is in ``scope`` for the plan's steps, and forms the update.

    ``base`` is the round's adapter with every head; s starts at 1. Gradient scoring costs one mini-batch more.

    Raises:
        Diverged: a loss, a gradient or the result is not finite.
    """
    began = time.monotonic()
    trainables = base.trainables(spec)
    k = heads_for_budget(head_budget, spec.heads)
    gradient = np.zeros(spec.size, np.float32)
    if plan.head_scoring is Scoring.GRADIENT and k < spec.heads:
        gradient = _finite(accumulate(trainer, trainables, next(batches)), 0).gradients
    heads = select_heads(score_heads(plan.head_scoring, spec, trainables, gradient, generator), k, generator)
    trained = scope.mask(spec, heads)
    optimizer = make_optimizer(plan, learning_rates(spec, plan, trained))
    losses = []
    for step in range(1, plan.local_steps + 1):
        result = _finite(accumulate(trainer, trainables, next(batches)), step)
        gradient = np.where(trained, result.gradients, np.float32(0))
        clip(gradient, plan.clip_norm)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found by the next check
            optimizer.step(trainables, gradient)
        losses.append(result.loss)
        on_step(step, result.loss)
    with np.errstate(over="ignore", invalid="ignore"):
        update = Update.of(spec, trainables, heads)
    if not (np.isfinite(update.sH).all() and np.isfinite(update.saved).all()):
        raise Diverged("The trained heads are not finite: lower the learning rate.")
    return LocalRun(update, tuple(losses), time.monotonic() - began, k)


def accumulate(trainer: Trainer, trainables: Vector, parts: Sequence[Batch]) -> StepResult:
    """Loss and gradient of a mini-batch from its parts: their means, weighted by their examples.

    The same as of the whole within rounding, with one part's activations and gradient in memory at a time.
    """
    if len(parts) == 1:
        return trainer(trainables, parts[0])
    loss = weight = 0.0
    gradients = np.zeros_like(trainables)
    for part in parts:
        result = trainer(trainables, part)
        loss, weight = loss + result.loss * result.weight, weight + result.weight
        gradients += np.float32(result.weight) * result.gradients
    gradients /= np.float32(weight)
    return StepResult(loss / weight, weight, gradients)


def mini_batches(
    examples: Examples, size: int, tokens: int, generator: np.random.Generator
) -> Iterator[Sequence[Batch]]:
    """Endless mini-batches, each in parts of at most ``tokens`` padded tokens (0: in one).

    Every example comes once in random order, then again in another order.
    """
    order: list[int] = []
    while True:
        while len(order) < size:
            order += generator.permutation(len(examples)).tolist()
        chosen, order = order[:size], order[size:]
        yield micro_batches(examples, chosen, tokens)


def run_generator(plan: TrainingPlan, round_number: int, device_id: str) -> np.random.Generator:
    """The random numbers of one device's local run: the same run again draws the same."""
    return np.random.default_rng([plan.seed, round_number, int(device_id, 16)])


def _finite(result: StepResult, step: int) -> StepResult:
    if not math.isfinite(result.loss) or not np.isfinite(result.gradients).all():
        raise Diverged(f"The loss or a gradient is not finite at step {step}: lower the learning rate.")
    return result


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

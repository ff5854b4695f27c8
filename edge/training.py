"""One local run: the client's part of a round (paper section 4, steps 2 and 3)."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge.errors import Diverged
from edge.job import Scope
from edge.optimizer import clip, learning_rates, make_optimizer
from ravan.heads import Scoring, are_scored, score_heads, select_heads
from ravan.layout import Vector, trained_mask
from ravan.rpc.plan import TrainingPlan
from ravan.runtime.examples import Examples, micro_batches
from ravan.runtime.session import Batch, StepResult
from ravan.spec import AdapterSpec
from ravan.update import Update

Trainer = Callable[[Vector, Batch], StepResult]
"""Loss and gradients at given trainables for one batch; hides the runtime."""


@dataclass(frozen=True)
class LocalRun:
    """What a local run ends with.

    Attributes:
        update: s_i H_i of the trained heads and the saved tensors.
        losses: mean loss of every step's batch.
        seconds: time taken.
        heads_per_layer: K, how many heads of a layer were trained, on average.
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


@dataclass
class Standing:
    """Where a local run stands after ``len(losses)`` steps: with data, plan and batches to come, all its rest follows.

    Attributes:
        trainables: the flat vector.
        heads: which heads were chosen, [layers, heads].
        moments: what the optimizer remembers, by name; empty before the first step.
        losses: mean loss of every step's batch.
        seconds: time taken.
    """

    trainables: Vector
    heads: NDArray[np.bool_]
    moments: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0


class Keeper(Protocol):
    """What keeps a local run's standing, so that a run that was cut off goes on."""

    def begun(self) -> Standing | None:
        """Where an earlier process left this run, its batches and generator set to go on there; None for nowhere."""
        ...

    def keep(self, standing: Callable[[], Standing]) -> None:
        """Called after every step; asks for the standing if it is time to keep it."""
        ...


class Forgetful:
    """Keeps nothing: a run that is cut off begins anew."""

    def begun(self) -> Standing | None:
        """As ``Keeper.begun``."""
        return None

    def keep(self, standing: Callable[[], Standing]) -> None:
        """As ``Keeper.keep``."""


FORGETFUL = Forgetful()


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
    keeper: Keeper = FORGETFUL,
) -> LocalRun:
    """Picks the heads that the budget buys, trains what of them is in ``scope``, and forms the update.

    ``base`` is the round's adapter with every head; s starts at 1. Gradient scoring costs one mini-batch more. A run
    that goes on where ``keeper`` has it ends with the same bits as one that was never cut off.

    Raises:
        Diverged: a loss, a gradient or the result is not finite.
    """
    began = time.monotonic()
    standing = keeper.begun() or _begin(trainer, spec, base, batches, plan, head_budget, generator)
    began -= standing.seconds
    trainables, heads, losses = standing.trainables, standing.heads, standing.losses
    trained = _mask(scope, spec, heads)
    optimizer = make_optimizer(plan, learning_rates(spec, plan, trained), standing.moments)

    def stands() -> Standing:
        return Standing(trainables, heads, optimizer.moments, losses, time.monotonic() - began)

    for step in range(len(losses) + 1, plan.local_steps + 1):
        result = _finite(accumulate(trainer, trainables, next(batches)), step)
        gradient = np.where(trained, result.gradients, np.float32(0))
        clip(gradient, plan.clip_norm)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found by the next check
            optimizer.step(trainables, gradient)
        losses.append(result.loss)
        keeper.keep(stands)
        on_step(step, result.loss)
    with np.errstate(over="ignore", invalid="ignore"):
        update = Update.of(spec, trainables, heads)
    if not (np.isfinite(update.sH).all() and np.isfinite(update.saved).all()):
        raise Diverged("The trained heads are not finite: lower the learning rate.")
    return LocalRun(update, tuple(losses), time.monotonic() - began, heads_per_layer(heads))


def _begin(
    trainer: Trainer,
    spec: AdapterSpec,
    base: Update,
    batches: Iterator[Sequence[Batch]],
    plan: TrainingPlan,
    head_budget: float,
    generator: np.random.Generator,
) -> Standing:
    """Before the first step, with the heads chosen."""
    trainables = base.trainables(spec)
    spread, scoring = plan.head_spread, plan.head_scoring
    gradient = np.zeros(spec.size, np.float32)
    if scoring is Scoring.GRADIENT and are_scored(spread, spec, head_budget):
        gradient = _finite(accumulate(trainer, trainables, next(batches)), 0).gradients
    scores = score_heads(scoring, spec, trainables, gradient, generator)
    return Standing(trainables, select_heads(spread, scores, head_budget, generator))


def heads_per_layer(heads: NDArray[np.bool_]) -> int:
    """K of a choice [layers, heads], on average."""
    return int(heads.sum()) // len(heads)


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


class MiniBatches:
    """Endless mini-batches, each in parts of at most ``tokens`` padded tokens (0: in one).

    Every example comes once in random order, then again in another order.

    Attributes:
        order: indices of the examples that come next, before another order is drawn.
    """

    def __init__(self, examples: Examples, size: int, tokens: int, generator: np.random.Generator) -> None:
        self._examples, self._size, self._tokens, self._generator = examples, size, tokens, generator
        self.order: list[int] = []

    def __iter__(self) -> "MiniBatches":
        return self

    def __next__(self) -> Sequence[Batch]:
        while len(self.order) < self._size:
            self.order += self._generator.permutation(len(self._examples)).tolist()
        chosen, self.order = self.order[: self._size], self.order[self._size :]
        return micro_batches(self._examples, chosen, self._tokens)


def run_generator(plan: TrainingPlan, round_number: int, device_id: str) -> np.random.Generator:
    """The random numbers of one device's local run: the same run again draws the same."""
    return np.random.default_rng([plan.seed, round_number, int(device_id, 16)])


def _finite(result: StepResult, step: int) -> StepResult:
    if not math.isfinite(result.loss) or not np.isfinite(result.gradients).all():
        raise Diverged(f"The loss or a gradient is not finite at step {step}: lower the learning rate.")
    return result


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _mask(scope: Scope, spec: AdapterSpec, heads: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which entries of the flat vector are trained if ``heads`` [layers, heads] are chosen."""
    mask = trained_mask(spec, heads)
    if scope is Scope.S:
        mask[: spec.H_size] = False
    if scope is not Scope.ALL:
        mask[spec.H_size + spec.s_size :] = False
    return mask

"""A local run on the real train.onnx: what is trained, what is uploaded, and that it learns."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge.errors import Diverged
from edge.training import LocalRun, MiniBatches, accumulate, run_generator, train_locally
from ravan.bundle import INITIAL, Bundle
from ravan.heads import Scoring
from ravan.layout import Vector
from ravan.rpc.plan import OptimizerName, TrainingPlan, plan_from_proto, plan_to_proto
from ravan.runtime.examples import micro_batches
from ravan.runtime.names import INPUT_IDS, LABELS
from ravan.runtime.session import Batch, StepResult, TrainStep
from ravan.runtime.text import LabelledTexts
from ravan.spread import Spread
from ravan.update import Update, decode, encode
from tests.conftest import sentences, write_rows

DEVICE = "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def step(bundle: Bundle) -> TrainStep:
    return TrainStep(bundle)


@pytest.fixture
def data(bundle: Bundle, tmp_path: Path) -> LabelledTexts:
    return LabelledTexts.read(bundle, write_rows(tmp_path / "data.jsonl", sentences(60, 1)))


def local_run(
    bundle: Bundle, step: TrainStep, data: LabelledTexts, plan: TrainingPlan, budget: float = 1.0
) -> LocalRun:
    spec = bundle.manifest.adapter
    base = decode(spec, bundle.path(INITIAL).read_bytes())
    generator = run_generator(plan, 1, DEVICE)
    batches = MiniBatches(data, plan.batch_size, 0, generator)
    return train_locally(step, spec, base, batches, plan, budget, generator)


@pytest.mark.parametrize("optimizer", OptimizerName)
def test_a_local_run_lowers_the_loss(
    bundle: Bundle, step: TrainStep, data: LabelledTexts, optimizer: OptimizerName
) -> None:
    rate = 1e-2 if optimizer is OptimizerName.ADAMW else 0.05
    plan = TrainingPlan(
        local_steps=80, batch_size=12, optimizer=optimizer, learning_rate=rate, saved_learning_rate=rate
    )
    run = local_run(bundle, step, data, plan)
    assert run.last_loss < 0.75 * run.first_loss
    assert len(run.losses) == 80


def test_the_same_run_again_gives_the_same_bytes(bundle: Bundle, step: TrainStep, data: LabelledTexts) -> None:
    plan = TrainingPlan(local_steps=3, batch_size=4)
    first, again = (encode(bundle.manifest.adapter, local_run(bundle, step, data, plan, 0.5).update) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("scoring", Scoring)
@pytest.mark.parametrize(("budget", "k"), [(0.25, 1), (0.5, 2), (1.0, 4)])
def test_a_budget_trains_and_uploads_k_heads_of_every_layer(
    bundle: Bundle, step: TrainStep, data: LabelledTexts, scoring: Scoring, budget: float, k: int
) -> None:
    run = local_run(bundle, step, data, TrainingPlan(local_steps=2, batch_size=4, head_scoring=scoring), budget)
    assert run.heads_per_layer == k
    assert (run.update.heads.sum(axis=1) == k).all()
    assert (np.abs(run.update.sH).sum(axis=(1, 2)) > 0).all()
    assert not np.array_equal(
        run.update.saved, decode(bundle.manifest.adapter, bundle.path(INITIAL).read_bytes()).saved
    )


def test_gradient_scoring_takes_the_heads_with_the_largest_gradient(
    bundle: Bundle, step: TrainStep, data: LabelledTexts
) -> None:
    spec, plan = bundle.manifest.adapter, TrainingPlan(local_steps=1, batch_size=4)
    seen: list[Vector] = []

    def watched(trainables: Vector, batch: Batch) -> StepResult:
        result = step(trainables, batch)
        seen.append(result.gradients.copy())
        return result

    base = decode(spec, bundle.path(INITIAL).read_bytes())
    generator = run_generator(plan, 1, DEVICE)
    batches = MiniBatches(data, 4, 0, generator)
    run = train_locally(watched, spec, base, batches, plan, 0.25, generator)
    norms = np.linalg.norm(seen[0][: spec.H_size].reshape(spec.H_shape), axis=(2, 3))
    np.testing.assert_array_equal(run.update.heads.argmax(axis=1), norms.argmax(axis=1))


def test_every_example_is_seen_once_before_any_is_seen_again(bundle: Bundle, data: LabelledTexts) -> None:
    batches = MiniBatches(data, 7, 0, np.random.default_rng(0))
    seen = [int(x) for _ in range(8) for part in next(batches) for x in part[LABELS]]
    every = sorted(data.labels)
    assert len(seen) == 56
    assert not Counter(seen) - Counter(every)


def test_a_shard_smaller_than_a_batch_still_fills_it(data: LabelledTexts) -> None:
    two = replace(data, ids=data.ids[:2], labels=data.labels[:2])
    (batch,) = next(MiniBatches(two, 5, 0, np.random.default_rng(0)))
    assert len(batch[LABELS]) == 5


@pytest.mark.parametrize("wrong", [StepResult(float("nan"), 1, np.zeros(1, np.float32)), None])
def test_a_run_that_leaves_the_numbers_is_stopped(
    bundle: Bundle, data: LabelledTexts, wrong: StepResult | None
) -> None:
    spec = bundle.manifest.adapter
    result = wrong or StepResult(1.0, 1, np.full(spec.size, np.inf, np.float32))
    base: Update = decode(spec, bundle.path(INITIAL).read_bytes())
    batches = MiniBatches(data, 2, 0, np.random.default_rng(0))
    with pytest.raises(Diverged, match="step 1"):
        train_locally(lambda *_: result, spec, base, batches, TrainingPlan(), 1.0, np.random.default_rng(0))


@pytest.mark.parametrize("tokens", [16, 24, 64, 0])
def test_micro_batches_give_the_gradient_of_the_whole(
    bundle: Bundle, step: TrainStep, data: LabelledTexts, tokens: int
) -> None:
    spec = bundle.manifest.adapter
    flat = decode(spec, bundle.path(INITIAL).read_bytes()).trainables(spec)
    flat[: spec.H_size] = np.random.default_rng(0).standard_normal(spec.H_size).astype(np.float32) * np.float32(0.1)
    chosen = range(13)
    whole = step(flat, data.batch(chosen))
    parts = micro_batches(data, chosen, tokens)
    assert len(parts) == 1 if tokens == 0 else len(parts) > 1
    assert all(part[INPUT_IDS].size <= max(tokens, 16) for part in parts) or tokens == 0
    summed = accumulate(step, flat, parts)
    assert summed.weight == whole.weight == 13
    assert summed.loss == pytest.approx(whole.loss, rel=1e-5)
    np.testing.assert_allclose(summed.gradients, whole.gradients, atol=1e-6)


def test_a_plan_survives_the_wire() -> None:
    plan = TrainingPlan(7, 3, OptimizerName.SGD, 0.5, 0.25, 0.125, 0.75, 2.0, Scoring.WEIGHT, Spread.TOP_LAYERS, 2**40)
    assert plan_from_proto(plan_to_proto(plan)) == plan


def test_flushing_denormals_stays_with_the_sessions(bundle: Bundle, step: TrainStep, data: LabelledTexts) -> None:
    flat = decode(bundle.manifest.adapter, bundle.path(INITIAL).read_bytes()).trainables(bundle.manifest.adapter)
    step(flat, data.batch([0]))
    tiny = np.array([1e-39], np.float32)
    assert (tiny * np.float32(0.5))[0] > 0

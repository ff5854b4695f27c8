"""The paper's claim that the mean is exact, and what the server adds to it."""

from copy import copy
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravan.aggregate import Contribution, average
from ravan.bases import draw_bases
from ravan.errors import SettingsError
from ravan.spec import AdapterSpec, Init, LayerSpec, TensorSpec
from ravan.update import Update, encode
from ravan.weights import weight_change
from tests.ravan.updates import full_update, random_update, seeds

SPEC = AdapterSpec((LayerSpec("q", 12, 16), LayerSpec("v", 12, 12)), 4, 3, seed=2, saved=(TensorSpec("head", (3, 2)),))


def contributions(updates: list[Update], weights: list[float] | None = None) -> list[Contribution]:
    weights = weights or [1.0] * len(updates)
    return [Contribution(f"{i:04}", partial(copy, u), weights[i]) for i, u in enumerate(updates)]


@given(seeds, st.sampled_from(Init), st.integers(1, 6))
def test_the_mean_of_full_weight_changes_is_the_weight_change_of_the_mean(seed: int, init: Init, clients: int) -> None:
    """All clients train all heads (paper section 4: B_i and A_i are shared, so the mean is exact)."""
    spec = AdapterSpec(SPEC.layers, SPEC.heads, SPEC.rank, init, 2, SPEC.saved)
    generator = np.random.default_rng(seed)
    updates = [full_update(spec, generator) for _ in range(clients)]
    mean = average(spec, full_update(spec, generator), contributions(updates))
    for index, layer in enumerate(spec.layers):
        bases = draw_bases(spec, layer)
        changes = [weight_change(bases, u.sH.reshape(spec.H_shape)[index]) for u in updates]
        of_mean = weight_change(bases, mean.sH.reshape(spec.H_shape)[index])
        np.testing.assert_allclose(of_mean, np.mean(changes, axis=0), atol=1e-5)


@given(seeds)
def test_with_partial_heads_the_same_holds_head_by_head(seed: int) -> None:
    generator = np.random.default_rng(seed)
    updates = [random_update(SPEC, generator) for _ in range(4)]
    current = full_update(SPEC, generator)
    mean = average(SPEC, current, contributions(updates))
    for index, layer in enumerate(SPEC.layers):
        bases = draw_bases(SPEC, layer)
        expected = np.zeros((layer.d_out, layer.d_in))
        for head in range(SPEC.heads):
            only = np.zeros((SPEC.heads, SPEC.rank, SPEC.rank), np.float32)
            changes = []
            for source in [u for u in updates if u.heads[index, head]] or [current]:
                only[head] = source.trainables(SPEC)[: SPEC.H_size].reshape(SPEC.H_shape)[index, head]
                changes.append(weight_change(bases, only))
            expected += np.mean(changes, axis=0)
        np.testing.assert_allclose(weight_change(bases, mean.sH.reshape(SPEC.H_shape)[index]), expected, atol=1e-5)


@given(seeds, st.randoms(use_true_random=False))
def test_any_arrival_order_gives_the_same_bits(seed: int, shuffler: object) -> None:
    generator = np.random.default_rng(seed)
    arrived = contributions([random_update(SPEC, generator) for _ in range(7)], generator.uniform(1, 9, 7).tolist())
    current = full_update(SPEC, generator)
    first = encode(SPEC, average(SPEC, current, arrived))
    shuffler.shuffle(arrived)  # type: ignore[attr-defined]
    assert encode(SPEC, average(SPEC, current, arrived)) == first


def test_a_head_that_nobody_trained_keeps_its_value() -> None:
    generator = np.random.default_rng(0)
    heads = np.zeros((2, 4), np.bool_)
    heads[0, 1] = True
    current = full_update(SPEC, generator)
    mean = average(SPEC, current, contributions([random_update(SPEC, generator, heads) for _ in range(3)]))
    kept = ~heads
    np.testing.assert_array_equal(mean.sH.reshape(SPEC.H_shape)[kept], current.sH.reshape(SPEC.H_shape)[kept])
    assert not np.allclose(mean.sH.reshape(SPEC.H_shape)[0, 1], current.sH.reshape(SPEC.H_shape)[0, 1])


def test_without_contributions_all_stays() -> None:
    current = full_update(SPEC, np.random.default_rng(0))
    assert average(SPEC, current, []) is current


def test_the_mean_is_uniform_unless_weighted() -> None:
    generator = np.random.default_rng(0)
    updates = [full_update(SPEC, generator) for _ in range(2)]
    current = full_update(SPEC, generator)
    uniform = average(SPEC, current, contributions(updates))
    np.testing.assert_allclose(uniform.saved, (updates[0].saved + updates[1].saved) / 2, atol=1e-6)
    weighted = average(SPEC, current, contributions(updates, [1.0, 3.0]))
    np.testing.assert_allclose(weighted.sH, (updates[0].sH + 3 * updates[1].sH) / 4, atol=1e-6)
    np.testing.assert_allclose(weighted.saved, (updates[0].saved + 3 * updates[1].saved) / 4, atol=1e-6)


def test_a_client_counts_once_and_never_with_a_weight_of_zero() -> None:
    update = full_update(SPEC, np.random.default_rng(0))
    with pytest.raises(SettingsError, match="twice"):
        average(SPEC, update, [Contribution("a", lambda: update), Contribution("a", lambda: update)])
    with pytest.raises(SettingsError, match="positive"):
        average(SPEC, update, [Contribution("a", lambda: update, 0.0)])

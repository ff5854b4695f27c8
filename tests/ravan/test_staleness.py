"""Stale updates: what of them counts, and that fresh ones count as they are."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravan.aggregate import Contribution, average
from ravan.spec import AdapterSpec, LayerSpec, TensorSpec
from ravan.staleness import carried_over, scale_of
from ravan.update import Update
from tests.ravan.updates import full_update

SPEC = AdapterSpec((LayerSpec("a", 4, 4),), heads=3, rank=2, seed=1, saved=(TensorSpec("bias", (3,)),))


def partial_update(update: Update, heads: list[bool]) -> Update:
    mask = np.array([heads])
    return Update(mask, update.sH[mask.ravel()], update.saved)


@pytest.mark.parametrize(("staleness", "scale"), [(0, 1.0), (3, 0.5), (8, 1 / 3)])
def test_a_change_counts_for_less_the_older_it_is(staleness: int, scale: float) -> None:
    assert scale_of(staleness) == pytest.approx(scale)


def test_a_fresh_update_stays_as_it_is_to_the_bit() -> None:
    generator = np.random.default_rng(0)
    update, base = full_update(SPEC, generator), full_update(SPEC, generator)
    assert carried_over(update, base, base, 0) is update


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 5), st.lists(st.booleans(), min_size=3, max_size=3)), min_size=1, max_size=5))
def test_a_buffer_moves_each_head_by_the_scaled_changes_of_those_that_trained_it(
    parts: list[tuple[int, list[bool]]],
) -> None:
    """H_i <- H_i + 1/n_i sum s(tau_c) (s_i H_i of c - H_i that c began from), over the n_i that trained head i."""
    generator = np.random.default_rng(7)
    current = full_update(SPEC, generator)
    bases = [current if tau == 0 else full_update(SPEC, generator) for tau, _ in parts]
    whole = [full_update(SPEC, generator) for _ in parts]
    stale = [
        carried_over(partial_update(update, heads), base, current, tau)
        for (tau, heads), update, base in zip(parts, whole, bases, strict=True)
    ]
    result = average(SPEC, current, [Contribution(str(n), lambda u=u: u) for n, u in enumerate(stale)])  # type: ignore[misc]
    for head in range(3):
        changes = [
            (update.sH[head] - base.sH[head]) / math.sqrt(1 + tau)
            for (tau, heads), update, base in zip(parts, whole, bases, strict=True)
            if heads[head]
        ]
        expected = current.sH[head] + (sum(changes) / len(changes) if changes else 0)
        np.testing.assert_allclose(result.sH[head], expected, atol=1e-5)


def test_what_leaves_the_range_of_float32_stays_finite() -> None:
    largest = np.float32(3e38)
    x, b, y = (
        Update.full(np.full((1, 3, 2, 2), v, np.float32), np.full(3, v, np.float32))
        for v in (largest, -largest, largest)
    )
    carried = carried_over(y, b, x, 1)
    assert np.isfinite(carried.sH).all()
    assert np.isfinite(carried.saved).all()

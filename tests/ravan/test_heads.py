import numpy as np
import pytest

from ravan.errors import HeadsNotAllowed, SettingsError
from ravan.heads import Scoring, check_heads, score_heads, select_heads
from ravan.layout import H_view, s_view, trained_mask
from ravan.spec import AdapterSpec
from ravan.spread import Spread, heads_for_budget


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(3)


@pytest.mark.parametrize(("fraction", "k"), [(0.25, 1), (0.5, 2), (0.75, 3), (1.0, 4), (0.1, 1), (0.99, 3)])
def test_k_is_the_floor_of_the_budget_and_at_least_one(fraction: float, k: int) -> None:
    assert heads_for_budget(fraction, 4) == k


@pytest.mark.parametrize("fraction", [0.0, -1.0, 1.01, float("nan")])
def test_a_budget_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(SettingsError):
        heads_for_budget(fraction, 4)


def test_weight_scores_are_the_norms_of_s_H(spec: AdapterSpec, generator: np.random.Generator) -> None:
    flat = generator.standard_normal(spec.size).astype(np.float32)
    scores = score_heads(Scoring.WEIGHT, spec, flat, flat, generator)
    products = s_view(spec, flat)[..., None, None] * H_view(spec, flat)
    np.testing.assert_allclose(scores, np.linalg.norm(products, axis=(2, 3)), rtol=1e-6)


def test_gradient_scores_are_the_norms_of_the_gradient_by_s_H(
    spec: AdapterSpec, generator: np.random.Generator
) -> None:
    """With P = s H, dL/dH = s dL/dP."""
    flat, by_P = (generator.standard_normal(spec.size).astype(np.float32) for _ in range(2))
    gradient = by_P.copy()
    H_view(spec, gradient)[:] *= s_view(spec, flat)[..., None, None]
    scores = score_heads(Scoring.GRADIENT, spec, flat, gradient, generator)
    np.testing.assert_allclose(scores, np.linalg.norm(H_view(spec, by_P), axis=(2, 3)), rtol=1e-5)


def test_random_scores_are_drawn_afresh(spec: AdapterSpec, generator: np.random.Generator) -> None:
    flat = np.zeros(spec.size, np.float32)
    first, second = (score_heads(Scoring.RANDOM, spec, flat, flat, generator) for _ in range(2))
    assert not np.allclose(first, second)


def test_the_k_best_of_every_layer_are_chosen(generator: np.random.Generator) -> None:
    scores = np.array([[1.0, 5.0, 3.0], [9.0, 2.0, 4.0]])
    chosen = select_heads(Spread.PER_LAYER, scores, 2 / 3, generator)
    np.testing.assert_array_equal(chosen, [[False, True, True], [True, False, True]])


def test_across_layers_the_best_are_chosen_wherever_they_are(generator: np.random.Generator) -> None:
    scores = np.array([[1.0, 5.0, 3.0], [9.0, 6.0, 7.0]])
    chosen = select_heads(Spread.ACROSS_LAYERS, scores, 0.5, generator)
    np.testing.assert_array_equal(chosen, [[False, False, False], [True, True, True]])


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.4, 0.5, 0.75, 1.0])
def test_no_other_heads_of_the_same_budget_have_a_larger_sum_of_scores(
    generator: np.random.Generator, fraction: float
) -> None:
    scores = generator.random((5, 4))
    chosen = select_heads(Spread.ACROSS_LAYERS, scores, fraction, generator)
    assert chosen.sum() == heads_for_budget(fraction, 20)
    assert scores[chosen].sum() == pytest.approx(np.sort(scores.ravel())[::-1][: chosen.sum()].sum())


@pytest.mark.parametrize(("fraction", "layers"), [(0.25, 1), (0.5, 2), (0.7, 2), (1.0, 4), (0.01, 1)])
def test_top_layers_are_the_last_ones_with_all_their_heads(
    generator: np.random.Generator, fraction: float, layers: int
) -> None:
    chosen = select_heads(Spread.TOP_LAYERS, generator.random((4, 3)), fraction, generator)
    np.testing.assert_array_equal(chosen.sum(axis=1), [0] * (4 - layers) + [3] * layers)


@pytest.mark.parametrize("spread", Spread)
@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.75, 1.0])
def test_what_a_budget_buys_is_allowed_and_one_head_more_is_not(
    generator: np.random.Generator, spread: Spread, fraction: float
) -> None:
    chosen = select_heads(spread, generator.random((8, 4)), fraction, generator)
    check_heads(spread, chosen, fraction)
    check_heads(spread, np.zeros_like(chosen), fraction)
    for place in np.argwhere(~chosen):
        more = chosen.copy()
        more[tuple(place)] = True
        with pytest.raises(HeadsNotAllowed):
            check_heads(spread, more, fraction)


def test_ties_fall_at_random_so_that_clients_do_not_all_choose_the_same(generator: np.random.Generator) -> None:
    picks = {tuple(select_heads(Spread.PER_LAYER, np.zeros((1, 4)), 0.5, generator)[0]) for _ in range(50)}
    assert len(picks) == 6  # all pairs out of four


def test_the_mask_covers_chosen_heads_and_all_saved_tensors(spec: AdapterSpec) -> None:
    heads = np.array([[True, False, False], [False, False, True]])
    mask = trained_mask(spec, heads)
    flat = mask.astype(np.float32)
    np.testing.assert_array_equal(H_view(spec, flat).all(axis=(2, 3)), heads)
    np.testing.assert_array_equal(H_view(spec, flat).any(axis=(2, 3)), heads)
    np.testing.assert_array_equal(s_view(spec, flat).astype(bool), heads)
    assert mask[spec.H_size + spec.s_size :].all()

"""Which heads a client trains: a score per head, and a budget of heads that is spread over the layers.

The paper's way is the K best of every layer (section 4.2), and its first open limitation is that K is the same in all
of them. The others spend the same budget elsewhere: on the best heads of all layers together, or on the top layers
alone, below which a device then needs no backward pass.

Scores are compared across layers as they are. Both bases of every layer have columns of norm 1, by construction or on
average (``ravan.bases``), so that a change of s_i H_i by some norm changes W by that norm, in whichever layer: weight
scores are sizes of changes of W, gradient scores are losses per size of such a change. All heads cost the same, rank^2
values. The largest sum of scores that a budget buys is therefore that of the best heads, one by one.
"""

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from ravan.errors import HeadsNotAllowed
from ravan.layout import H_view, Vector, s_view
from ravan.spec import AdapterSpec
from ravan.spread import Spread, heads_for_budget, layers_for_budget


class Scoring(StrEnum):
    """How a client ranks the heads at the start of a local run.

    Random is the paper's baseline; weight prefers heads that already hold much, and lags because every client keeps
    choosing the same ones; gradient prefers heads that the client's own data would change most.
    """

    RANDOM = "random"
    WEIGHT = "weight"
    GRADIENT = "gradient"


def score_heads(
    scoring: Scoring,
    spec: AdapterSpec,
    flat: Vector,
    gradient: Vector,
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    """A score per head, [layers, heads].

    ``flat`` and ``gradient`` are vectors over all trainables; the gradient is read only by gradient scoring, whose
    score is ||dL/d(s_i H_i)||_F: dL/dH_i is s_i times that.
    """
    match scoring:
        case Scoring.RANDOM:
            return generator.random((len(spec.layers), spec.heads))
        case Scoring.WEIGHT:
            return _norms(H_view(spec, flat)) * np.abs(s_view(spec, flat))
        case Scoring.GRADIENT:
            return _norms(H_view(spec, gradient)) / np.maximum(np.abs(s_view(spec, flat)), 1e-12)


def select_heads(
    spread: Spread, scores: NDArray[np.float64], fraction: float, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """The heads that a budget buys, a mask [layers, heads].

    Ties, as in round 1 where every H is 0 and all weight scores with it, fall at random.

    Raises:
        SettingsError: the fraction is not in (0, 1].
    """
    layers, heads = scores.shape
    match spread:
        case Spread.PER_LAYER:
            return _best(scores, heads_for_budget(fraction, heads), generator)
        case Spread.ACROSS_LAYERS:
            together = scores.reshape(1, layers * heads)
            return _best(together, heads_for_budget(fraction, layers * heads), generator).reshape(layers, heads)
        case Spread.TOP_LAYERS:
            return top_heads(layers_for_budget(spread, fraction, layers), layers, heads)


def are_scored(spread: Spread, spec: AdapterSpec, fraction: float) -> bool:
    """Whether scores decide which heads a budget buys."""
    match spread:
        case Spread.PER_LAYER:
            return heads_for_budget(fraction, spec.heads) < spec.heads
        case Spread.ACROSS_LAYERS:
            return heads_for_budget(fraction, spec.s_size) < spec.s_size
        case Spread.TOP_LAYERS:
            return False


def top_heads(top: int, layers: int, heads: int) -> NDArray[np.bool_]:
    """Every head of the last ``top`` layers, a mask [layers, heads]."""
    return np.repeat(np.arange(layers)[:, None] >= layers - top, heads, axis=1)


def check_heads(spread: Spread, chosen: NDArray[np.bool_], fraction: float) -> None:
    """Refuses an update that carries heads, a mask [layers, heads], which its budget does not pay for.

    Raises:
        HeadsNotAllowed: says what the budget is.
        SettingsError: the fraction is not in (0, 1].
    """
    layers, heads = chosen.shape
    match spread:
        case Spread.PER_LAYER:
            allowed = heads_for_budget(fraction, heads)
            most, what = int(chosen.sum(axis=1).max()), "heads of a layer"
        case Spread.ACROSS_LAYERS:
            allowed = heads_for_budget(fraction, layers * heads)
            most, what = int(chosen.sum()), "heads"
        case Spread.TOP_LAYERS:
            allowed = layers_for_budget(spread, fraction, layers)
            most, what = layers - int(np.append(chosen.any(axis=1), np.True_).argmax()), "of the last layers"
    if most > allowed:
        raise HeadsNotAllowed(
            f"The update holds {most} {what}, this device's part of the round {allowed}: train what the task says."
        )


def _best(scores: NDArray[np.float64], k: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """The k best of every row."""
    order = np.lexsort((generator.random(scores.shape), -scores), axis=1)
    chosen = np.zeros(scores.shape, np.bool_)
    np.put_along_axis(chosen, order[:, :k], values=np.True_, axis=1)
    return chosen


def _norms(matrices: Vector) -> NDArray[np.float64]:
    """Frobenius norms of [layers, heads, rank, rank]."""
    norms: NDArray[np.float64] = np.sqrt(np.square(matrices, dtype=np.float64).sum(axis=(2, 3)))
    return norms

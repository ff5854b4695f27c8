"""Which heads a client trains: a score per head, then the K best of every layer (paper section 4.2)."""

import math
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from ravan.errors import SettingsError
from ravan.layout import H_view, Vector, s_view
from ravan.spec import AdapterSpec


class Scoring(StrEnum):
    """How a client ranks the heads at the start of a local run.

    Random is the paper's baseline; weight prefers heads that already hold much, and lags because every client keeps
    choosing the same ones; gradient prefers heads that the client's own data would change most.
    """

    RANDOM = "random"
    WEIGHT = "weight"
    GRADIENT = "gradient"


def heads_for_budget(fraction: float, heads: int) -> int:
    """K_c = floor(fraction * heads), at least 1; ``fraction`` is the client's N_c / N_max.

    Raises:
        SettingsError: the fraction is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise SettingsError(f"A head budget of {fraction} makes no sense: choose a fraction above 0, at most 1.")
    return max(1, math.floor(fraction * heads + 1e-9))  # so that 0.29999999 of 10 heads still means 3


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


def select_heads(scores: NDArray[np.float64], k: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """The k best heads of every layer, a mask [layers, heads].

    Ties, as in round 1 where every H is 0 and all weight scores with it, fall at random.
    """
    order = np.lexsort((generator.random(scores.shape), -scores), axis=1)
    chosen = np.zeros(scores.shape, np.bool_)
    np.put_along_axis(chosen, order[:, :k], values=np.True_, axis=1)
    return chosen


def _norms(matrices: Vector) -> NDArray[np.float64]:
    """Frobenius norms of [layers, heads, rank, rank]."""
    norms: NDArray[np.float64] = np.sqrt(np.square(matrices, dtype=np.float64).sum(axis=(2, 3)))
    return norms

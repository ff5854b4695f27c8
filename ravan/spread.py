"""Where a client's budget of heads goes, and what it buys; without numpy, for the client that is small when idle."""

import math
from enum import StrEnum

from ravan.errors import SettingsError


class Spread(StrEnum):
    """Where a client's budget of heads goes.

    Per layer is the paper's: the K best heads of every layer. Across layers takes the best of all layers together,
    which may leave a layer without any. Top layers takes every head of the last layers, whatever their scores: the only
    one that saves a device time and memory, as the backward pass ends there.
    """

    PER_LAYER = "per-layer"
    ACROSS_LAYERS = "across-layers"
    TOP_LAYERS = "top-layers"


def heads_for_budget(fraction: float, heads: int) -> int:
    """K_c = floor(fraction * heads), at least 1; ``fraction`` is the client's N_c / N_max.

    Raises:
        SettingsError: the fraction is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise SettingsError(f"A head budget of {fraction} makes no sense: choose a fraction above 0, at most 1.")
    return max(1, math.floor(fraction * heads + 1e-9))  # so that 0.29999999 of 10 heads still means 3


def layers_for_budget(spread: Spread, fraction: float, layers: int) -> int:
    """In how many of the last layers a client trains heads: all, unless its budget goes to the top layers alone.

    Raises:
        SettingsError: the fraction is not in (0, 1].
    """
    return heads_for_budget(fraction, layers) if spread is Spread.TOP_LAYERS else layers

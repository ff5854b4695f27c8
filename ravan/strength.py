"""What a device's measured speed says about how much of a model it should train; without numpy, for client and server.

Only a shorter backward pass makes a step cheaper: with heads of all layers it goes through all of them, whichever heads
are trained, so that a smaller budget then saves bytes and no time (BENCHMARKS.md, "Heads").
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ravan.spread import Spread

BUDGETS = (1.0, 0.75, 0.5, 0.25)
"""Shares of the heads that a device is given by its strength, the paper's (section 5)."""
MARGIN = 0.7
"""Share of the time that is left in which a local run is to be done; the rest is for transfers and a busier hour."""
FORWARD = 0.45
"""Share of a whole step that is left if the backward pass goes through nothing; assumed of depths never measured.

What fits the steps of ``make bench-heads`` in both precisions.
"""


@dataclass(frozen=True)
class Work:
    """A local run as the clock sees it.

    Attributes:
        examples: of all its mini-batches.
        seconds: until the round closes; None where nobody waits.
    """

    examples: int
    seconds: float | None


def local_work(steps: int, batch_size: int, seconds: float) -> Work:
    """A plan's local run, with one mini-batch more for scores; 0 ``seconds`` for no deadline, as in a task."""
    return Work((steps + 1) * batch_size, seconds or None)


def expected_seconds(times: Mapping[float, float], depth: float) -> float | None:
    """Of an example with a backward pass through this share of the layers; None if nothing was measured.

    Args:
        times: measured seconds by depth.
        depth: above 0, at most 1. If it was not measured itself, the nearest that was is scaled.
    """
    if not times:
        return None
    nearest = min(times, key=lambda known: abs(known - depth))
    return times[nearest] * _cost(depth) / _cost(nearest)


def fitting_budget(spread: Spread, times: Mapping[float, float], work: Work, most: float = 1.0) -> float:
    """The largest share of the heads, ``most`` at most, with which the work is done in time.

    The smallest that there is if none is: a device tries, and is told if it was late. All of ``most`` if it saves no
    time to train fewer, or nothing was measured, or nobody waits.
    """
    if spread is not Spread.TOP_LAYERS or work.seconds is None:
        return most
    allowed = [budget for budget in BUDGETS if budget < most]
    for budget in (most, *allowed):
        seconds = expected_seconds(times, budget)
        if seconds is None or work.examples * seconds <= MARGIN * work.seconds:
            return budget
    return min((most, *allowed))


def sensible(times: Mapping[float, float]) -> bool:
    """Whether depths are above 0 and at most 1, and seconds above 0 and finite."""
    return all(0 < depth <= 1 and 0 < seconds < math.inf for depth, seconds in times.items())


def _cost(depth: float) -> float:
    return FORWARD + (1 - FORWARD) * depth

"""A device's held-out part: examples that are measured on and never trained on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ravan.errors import NoExamples
from ravan.runtime.examples import Examples
from ravan.runtime.session import Batch


@dataclass(frozen=True)
class Part:
    """Some of the examples, known by their place among ``chosen``."""

    whole: Examples
    chosen: Sequence[int]

    @property
    def skipped(self) -> int:
        """As ``Examples.skipped``, of the whole."""
        return self.whole.skipped

    def __len__(self) -> int:
        return len(self.chosen)

    def tokens(self, index: int) -> int:
        """As ``Examples.tokens``."""
        return self.whole.tokens(self.chosen[index])

    def batch(self, indices: Sequence[int]) -> Batch:
        """As ``Examples.batch``."""
        return self.whole.batch([self.chosen[i] for i in indices])


def split(examples: Examples, share: float, seed: int) -> tuple[Part, Part]:
    """What is trained on and what is held out, at least one example each: the same for the same data and seed.

    Raises:
        NoExamples: there is a single example.
    """
    count = len(examples)
    if count < 2:
        raise NoExamples("The data holds a single example, which can't be both trained on and held out: give more.")
    held_out = min(max(round(share * count), 1), count - 1)
    order = np.random.default_rng(seed).permutation(count).tolist()
    return Part(examples, sorted(order[held_out:])), Part(examples, sorted(order[:held_out]))

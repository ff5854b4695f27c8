"""Random updates for tests."""

import numpy as np
from hypothesis import strategies as st

from ravan.spec import AdapterSpec
from ravan.update import Update


def random_update(spec: AdapterSpec, generator: np.random.Generator, heads: np.ndarray | None = None) -> Update:
    """An update with normal values, of random heads unless given."""
    if heads is None:
        heads = generator.random(spec.H_shape[:2]) < 0.5
    values = generator.standard_normal((int(heads.sum()), spec.rank, spec.rank)).astype(np.float32)
    return Update(heads, values, generator.standard_normal(spec.saved_size).astype(np.float32))


def full_update(spec: AdapterSpec, generator: np.random.Generator) -> Update:
    """One that carries every head."""
    return random_update(spec, generator, np.ones(spec.H_shape[:2], np.bool_))


seeds = st.integers(0, 2**32 - 1)

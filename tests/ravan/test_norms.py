"""The bound on how far an update may move."""

import math

import numpy as np
import pytest

from ravan.errors import NormTooLarge
from ravan.norms import Norms, bound, check, measure
from ravan.spec import AdapterSpec
from ravan.update import Update
from tests.ravan.updates import full_update

NONE = Norms(0, 0)
EARLIER = [Norms(1.0, 10.0), Norms(2.0, 20.0), Norms(1e9, 1e9)]


def test_each_head_is_measured_alone_and_against_the_base(spec: AdapterSpec) -> None:
    base = full_update(spec, np.random.default_rng(0))
    sH, saved = base.sH.copy(), base.saved.copy()
    sH[2] += 3  # rank 2: a norm of 6
    sH[4] += 1
    saved[:4] -= 2.5
    norms = measure(base, Update(base.heads, sH, saved))
    assert norms.head == pytest.approx(6, rel=1e-6)
    assert norms.saved == pytest.approx(5, rel=1e-6)


def test_an_update_without_heads_is_measured_too(spec: AdapterSpec) -> None:
    base = full_update(spec, np.random.default_rng(0))
    nothing = Update(np.zeros_like(base.heads), base.sH[:0], base.saved)
    assert measure(base, nothing) == Norms(0.0, 0.0)


def test_the_largest_finite_values_have_a_finite_norm(spec: AdapterSpec) -> None:
    base = full_update(spec, np.random.default_rng(0))
    norms = measure(base, Update(base.heads, np.full_like(base.sH, -3.4e38), base.saved))
    assert math.isfinite(norms.head)
    with pytest.raises(NormTooLarge):
        check(norms, Norms(1e38, 1.0))


def test_the_median_of_earlier_updates_is_deaf_to_a_few_huge_ones() -> None:
    assert bound(EARLIER, NONE, 3) == Norms(6.0, 60.0)
    assert bound(EARLIER, Norms(7.0, 50.0), 3) == Norms(6.0, 50.0)
    assert bound(EARLIER, Norms(5.0, 40.0), 0) == Norms(5.0, 40.0)


def test_without_anything_to_compare_with_any_norm_is_taken() -> None:
    unbounded = Norms(math.inf, math.inf)
    assert bound([], NONE, 3) == unbounded
    assert bound([NONE] * 2, NONE, 3) == unbounded
    assert bound(EARLIER, NONE, 0) == unbounded


def test_what_is_too_large_is_named_with_both_numbers() -> None:
    check(Norms(6.0, 60.0), Norms(6.0, 60.0))
    with pytest.raises(NormTooLarge, match=r"a head by a norm of 6\.1, at most 6 is taken"):
        check(Norms(6.1, 0.0), Norms(6.0, 60.0))
    with pytest.raises(NormTooLarge, match="modules trained whole"):
        check(Norms(0.0, 61.0), Norms(6.0, 60.0))

"""What every rule promises: the same bits in any order, the mean of equals, and what its share of attackers can do."""

import random
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravan.aggregate import Contribution
from ravan.by_head import Median, MultiKrum, TrimmedMean
from ravan.errors import SettingsError
from ravan.norms import part_norms
from ravan.parts import over, parts_of
from ravan.rules import ClippedMean, Mean, Rule
from ravan.spec import AdapterSpec, LayerSpec, TensorSpec
from ravan.update import Update, encode
from tests.ravan.updates import full_update, random_update, seeds

SPEC = AdapterSpec((LayerSpec("q", 8, 8), LayerSpec("v", 8, 6)), 3, 2, seed=2, saved=(TensorSpec("head", (2, 2)),))
HOSTILE = [1e30, -1e30, 1e4, -3.0, 0.0]
shares = st.sampled_from([0.1, 0.2, 0.3, 0.4])


def robust(share: float) -> list[Rule]:
    return [ClippedMean(share), Median(share), TrimmedMean(share), MultiKrum(share)]


def every_rule(share: float) -> list[Rule]:
    return [Mean(), *robust(share)]


def round_of(updates: Sequence[Update]) -> list[Contribution]:
    return [Contribution(f"{i:04}", partial(copy, update)) for i, update in enumerate(updates)]


def attacked(
    rule: Rule, seed: int, extra: int
) -> tuple[Update, list[Update], list[Update], Update, np.random.Generator]:
    """Base, honest and hostile updates and the result: a round with as many attackers as the rule is told to bear."""
    generator = np.random.default_rng(seed)
    base, n = full_update(SPEC, generator), rule.least_clients + extra
    honest = [moved(base, generator) for _ in range(n - rule.hostile(n))]
    hostile = [evil(base, generator) for _ in range(rule.hostile(n))]
    mixed = [*honest, *hostile]
    generator.shuffle(mixed)
    return base, honest, hostile, rule(SPEC, base, round_of(mixed)), generator


def moved(base: Update, generator: np.random.Generator) -> Update:
    change = full_update(SPEC, generator)
    return Update(base.heads, base.sH + change.sH, base.saved + change.saved)


def evil(base: Update, generator: np.random.Generator) -> Update:
    """Anything finite: huge, small, turned round, or hiding at the base."""
    factor = np.float32(generator.choice(HOSTILE))
    change = full_update(SPEC, generator)
    return Update(base.heads, base.sH + factor * change.sH, base.saved + factor * change.saved)


@given(seeds, shares, st.integers(0, 8))
def test_any_arrival_order_gives_the_same_bits(seed: int, share: float, clients: int) -> None:
    generator = np.random.default_rng(seed)
    base = full_update(SPEC, generator)
    arrived = round_of([random_update(SPEC, generator) for _ in range(clients)])
    for rule in every_rule(share):
        first = encode(SPEC, rule(SPEC, base, arrived))
        assert encode(SPEC, rule(SPEC, base, random.Random(seed).sample(arrived, clients))) == first


@given(seeds, shares, st.integers(0, 4))
def test_clients_that_agree_get_what_they_say(seed: int, share: float, extra: int) -> None:
    generator = np.random.default_rng(seed)
    base, agreed = full_update(SPEC, generator), random_update(SPEC, generator)
    for rule in every_rule(share):
        told = round_of([agreed] * (rule.least_clients + extra))
        assert encode(SPEC, rule(SPEC, base, told)) == encode(SPEC, agreed), rule


@given(seeds, shares, st.integers(0, 6))
def test_median_and_trimmed_mean_stay_within_the_honest_values(seed: int, share: float, extra: int) -> None:
    for rule in (Median(share), TrimmedMean(share)):
        _, honest, _, result, _ = attacked(rule, seed, extra)
        for part, values in parts_of(result).items():
            told = np.stack([parts_of(update)[part] for update in honest])
            assert (values >= told.min(axis=0)).all()
            assert (values <= told.max(axis=0)).all()


@given(seeds, shares, st.integers(0, 6))
def test_the_clipped_mean_moves_no_farther_than_an_honest_client(seed: int, share: float, extra: int) -> None:
    """And the attackers' part of it is at most f / n of that."""
    rule = ClippedMean(share)
    base, honest, hostile, result, _ = attacked(rule, seed, extra)
    farthest = np.stack([part_norms(base, update) for update in honest]).max(axis=0)
    assert (part_norms(base, result) <= 1.0001 * farthest).all()
    n = len(honest) + len(hostile)
    bound = np.median([part_norms(base, update) for update in [*honest, *hostile]], axis=0)
    without = {part: np.zeros(len(values)) for part, values in parts_of(result).items()}
    for update in honest:
        for part, values in parts_of(update).items():
            change = values - parts_of(base)[part].astype(np.float64)
            without[part] += change * min(1.0, bound[part] / np.linalg.norm(change)) / n
    for part, values in parts_of(result).items():
        theirs = values - parts_of(base)[part].astype(np.float64) - without[part]
        assert np.linalg.norm(theirs) <= 1.0001 * len(hostile) / n * farthest[part] + 1e-5


@given(seeds, shares, st.integers(0, 6))
def test_multi_krum_takes_nobody_far_from_the_honest(seed: int, share: float, extra: int) -> None:
    """Every one taken lies within D sqrt((n - f - 2) / (n - 2 f - 1)) of an honest one."""
    rule = MultiKrum(share)
    _, honest, hostile, _, _ = attacked(rule, seed, extra)
    n, f = len(honest) + len(hostile), len(hostile)
    for part in range(SPEC.s_size + 1):
        all_values = np.stack([parts_of(update)[part] for update in [*hostile, *honest]])
        truth = all_values[f:].astype(np.float64)
        apart = max(np.linalg.norm(a - b) for a in truth for b in truth)
        chosen = rule.chosen(all_values)
        assert len(chosen) == n - f - 2
        for one in chosen:
            nearest = np.linalg.norm(truth - all_values[one], axis=1).min()
            assert nearest <= 1.0001 * apart * np.sqrt((n - f - 2) / (n - 2 * f - 1))


@given(seeds, shares)
def test_multi_krum_takes_honest_clients_alone_when_the_others_are_far(seed: int, share: float) -> None:
    rule, generator = MultiKrum(share), np.random.default_rng(seed)
    n = rule.least_clients + 2
    values = generator.standard_normal((n, 30)).astype(np.float32)
    hostile = generator.choice(n, rule.hostile(n), replace=False)
    values[hostile] += 1000 * generator.standard_normal(30).astype(np.float32)  # all together, far away
    assert not set(rule.chosen(values)) & set(hostile)


def test_one_client_moves_the_mean_anywhere() -> None:
    """Why the other rules exist."""
    generator = np.random.default_rng(0)
    base = full_update(SPEC, generator)
    honest = [moved(base, generator) for _ in range(9)]
    far = replace(honest[0], sH=np.full_like(base.sH, 1e30))
    assert Mean()(SPEC, base, round_of([*honest, far])).sH.min() > 1e28


@pytest.mark.parametrize("rule", robust(0.3), ids=lambda rule: str(rule.name))
def test_a_head_trained_by_too_few_keeps_its_value(rule: Rule) -> None:
    generator = np.random.default_rng(0)
    base, n = full_update(SPEC, generator), rule.least_clients
    everybody, alone = np.ones((2, 3), np.bool_), np.ones((2, 3), np.bool_)
    everybody[0, 1] = everybody[1, 2] = False
    alone[1, 2] = False
    updates = [random_update(SPEC, generator, everybody) for _ in range(n - 1)]
    result = rule(SPEC, base, round_of([*updates, random_update(SPEC, generator, alone)]))
    np.testing.assert_array_equal(result.heads, everybody)
    assert encode(SPEC, over(base, result)) != encode(SPEC, base)
    kept = over(base, result).sH.reshape(SPEC.H_shape)[~everybody]
    np.testing.assert_array_equal(kept, base.sH.reshape(SPEC.H_shape)[~everybody])


def test_a_round_below_the_least_number_leaves_everything() -> None:
    generator = np.random.default_rng(0)
    base = full_update(SPEC, generator)
    for rule in robust(0.2):
        few = [full_update(SPEC, generator) for _ in range(rule.least_clients - 1)]
        assert encode(SPEC, over(base, rule(SPEC, base, round_of(few)))) == encode(SPEC, base)


@pytest.mark.parametrize("memory", [1, 100, 400])
def test_parts_taken_a_few_at_a_time_give_the_same_bits(memory: int) -> None:
    generator = np.random.default_rng(1)
    base = full_update(SPEC, generator)
    told = round_of([random_update(SPEC, generator) for _ in range(9)])
    for rule in (Median(0.2), TrimmedMean(0.2), MultiKrum(0.2)):
        assert encode(SPEC, replace(rule, memory=memory)(SPEC, base, told)) == encode(SPEC, rule(SPEC, base, told))


@pytest.mark.parametrize("clients", [3, 300])
def test_updates_are_let_go_as_they_are_read(clients: int) -> None:
    """The memory of a rule that folds, or takes a few parts at a time, does not grow with whole updates."""
    generator = np.random.default_rng(1)
    base, alive, most = full_update(SPEC, generator), 0, 0

    class Counted(Update):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def load(seed: int) -> Update:
        nonlocal alive, most
        alive, most = alive + 1, max(most, alive + 1)
        read = full_update(SPEC, np.random.default_rng(seed))
        return Counted(read.heads, read.sH, read.saved)

    told = [Contribution(f"{i:04}", partial(load, i)) for i in range(clients)]
    for rule in (Mean(), ClippedMean(0.2), replace(Median(0.2), memory=1)):
        rule(SPEC, base, told)
    assert most <= 3  # the one before, the one in hand, the one that is read


def test_each_rule_says_how_many_clients_its_share_takes() -> None:
    found = {(type(rule), share): rule.least_clients for share in (0.2, 0.3, 0.4) for rule in robust(share)}
    for kind in (ClippedMean, Median, TrimmedMean):
        assert [found[kind, share] for share in (0.2, 0.3, 0.4)] == [3, 5, 9]
    assert [found[MultiKrum, share] for share in (0.2, 0.3, 0.4)] == [
        7,
        9,
        19,
    ]  # 6 updates with 2 hostile ones are one too few
    assert Mean().least_clients == 1


@given(st.floats(0.01, 0.49), st.integers(1, 400))
def test_from_the_least_number_on_every_number_bears_the_share(share: float, extra: int) -> None:
    for rule in robust(share):
        assert rule.bears(rule.least_clients + extra)
        assert rule.least_clients == 1 or not rule.bears(rule.least_clients - 1)


def test_a_share_that_no_number_bears_is_refused() -> None:
    with pytest.raises(SettingsError, match="mean bears no hostile update, not 10%"):
        Mean(0.1)
    with pytest.raises(SettingsError, match="multi-krum bears shares below 50%, not 50%"):
        MultiKrum(0.5)

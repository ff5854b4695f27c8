"""The benchmark of hostile devices: what they send, and a small federation that it is run with."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks.attacks import Attack, LabelsTurnedRound, forge
from benchmarks.poison import BOUNDS, CONTENDERS, SHARES, Contender, Federation, section, wanted
from ravan.bundle import Bundle
from ravan.rules import RuleName
from ravan.runtime.examples import Examples, read_examples
from ravan.runtime.names import LABELS
from ravan.spec import AdapterSpec
from tests.conftest import sentences, write_rows
from tests.ravan.updates import full_update


@pytest.fixture
def devices(bundle: Bundle, tmp_path: Path) -> list[Examples]:
    """Twenty devices with a few sentences each."""
    read = partial(read_examples, bundle)
    return [read(write_rows(tmp_path / f"{i}.jsonl", sentences(9, i))) for i in range(20)]


def test_attacks_do_what_they_say(spec: AdapterSpec) -> None:
    generator = np.random.default_rng(0)
    base, trained = full_update(spec, generator), full_update(spec, generator)
    flip, scale, not_a_number, noise = (forge(a, base, trained, generator) for a in list(Attack)[:4])
    np.testing.assert_allclose(flip.sH - base.sH, -4 * (trained.sH - base.sH), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(scale.saved - base.saved, 100 * (trained.saved - base.saved), rtol=1e-3, atol=1e-4)
    assert np.isnan(not_a_number.sH).all()
    assert 0.5 < np.std(noise.sH - base.sH) < 1.5
    assert forge(Attack.LABEL_FLIP, base, trained, generator).sH.tobytes() == trained.sH.tobytes()


def test_labels_turned_round_leave_the_rest_alone(devices: list[Examples]) -> None:
    turned, plain = LabelsTurnedRound(devices[0], 3).batch([0, 1, 2]), devices[0].batch([0, 1, 2])
    np.testing.assert_array_equal(turned[LABELS] + plain[LABELS], 2)
    np.testing.assert_array_equal(turned["input_ids"], plain["input_ids"])


def test_checks_turn_away_what_the_mean_can_not_bear(bundle: Bundle, devices: list[Examples]) -> None:
    federation = Federation(bundle, devices, devices[0], rounds=2)
    mean, bounded = Contender("mean", RuleName.MEAN), Contender("bounded", RuleName.MEAN, {**BOUNDS, "max_norm": 2.0})
    assert federation.run(mean, Attack.NOT_A_NUMBER, 0.4).refused == 16
    assert federation.run(mean, Attack.LARGE_SCALE, 0.4).refused == 0
    assert federation.run(bounded, Attack.LARGE_SCALE, 0.4).refused == 16


def test_every_cell_is_run_once_and_shown(bundle: Bundle, devices: list[Examples]) -> None:
    cells = [(c.name, a, s) for c, a, s in wanted(CONTENDERS, list(Attack))]
    assert len(set(cells)) == len(cells)
    assert len(cells) == 6 * (5 * 4 + 1) + (4 + 1)
    outcome = Federation(bundle, devices, devices[0], rounds=1).run(CONTENDERS[-1], Attack.NOT_A_NUMBER, SHARES[-1])
    assert outcome.lost == 1  # 12 updates are too few for multi-Krum to bear 8
    shown = list(section([outcome], 1))
    assert sum(line.count("not run") for line in shown) == 6 * 5 * 5 + 5 - 1
    assert f"{outcome.accuracy:.1%} (1 of 1 rounds lost)" in "".join(shown)

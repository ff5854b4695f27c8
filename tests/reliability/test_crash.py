"""A server that is killed at every point loses nothing: the short version of ``benchmarks/reliability/crash.py``."""

from pathlib import Path

import pytest

from benchmarks.reliability.crash import FIRST, IN_ORDER, LAST, OF_KEYS, TRANSACTIONS, Trial
from ravan.faults import POINTS


@pytest.mark.timeout(600)
def test_a_server_killed_once_at_every_point_of_a_run_publishes_the_same_bits(tmp_path: Path) -> None:
    faults = [f"{point}:{30 if point in TRANSACTIONS else 1}" for point in (*FIRST, *IN_ORDER, *LAST)]
    trial = Trial(tmp_path, faults, rounds=8).run()
    assert trial.problems == []
    assert trial.kills.total() == len(faults)
    assert trial.receipts == 8 * 3


@pytest.mark.timeout(600)
def test_a_server_killed_where_it_lets_devices_in_lets_them_in_once(tmp_path: Path) -> None:
    trial = Trial(tmp_path, [f"{point}:1" for point in OF_KEYS], rounds=2, secure=True).run()
    assert trial.problems == []
    assert trial.kills.total() == len(OF_KEYS)


def test_the_points_tried_are_all_there_are() -> None:
    assert {*FIRST, *IN_ORDER, *LAST, *OF_KEYS} == POINTS

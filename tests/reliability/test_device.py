"""A device that is killed, or whose disk is full, goes on with the same bits: a part of ``make edge-reliability``."""

from pathlib import Path

import pytest

from benchmarks.reliability.device_kills import DOWNLOAD, OF_A_ROUND
from benchmarks.reliability.device_trial import MOMENTS, DeviceTrial
from benchmarks.reliability.device_weather import ROUNDS, full_disks
from benchmarks.reliability.disks import may_mount
from benchmarks.reliability.tiny import tiny_bundle
from ravan.faults import DEVICE_POINTS

LIVES = ("file-fetched:2", "checkpoint-kept:5", "step-done:9", "update-finished:1", "rest-kept:1")


@pytest.mark.timeout(300)
def test_a_killed_device_sends_the_same_bits_trains_nothing_twice_and_leaves_nothing(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle").folder
    calm = DeviceTrial(tmp_path / "calm", bundle, (), rounds=3).run()
    killed = DeviceTrial(tmp_path / "killed", bundle, LIVES, rounds=3).run()
    assert calm.problems == killed.problems == []
    assert killed.kills.total() == len(LIVES)
    assert killed.resumed > 0
    assert killed.updates == calm.updates


@pytest.mark.timeout(300)
@pytest.mark.skipif(not may_mount(), reason="only root may mount disks")
def test_full_disks(tmp_path: Path) -> None:
    """They cost a device no round. A longer name would be too long for the server's socket."""
    calm = DeviceTrial(tmp_path / "calm", tiny_bundle(tmp_path / "bundle").folder, (), ROUNDS).run()
    figures = [*full_disks(tmp_path, calm)]
    assert len(figures) == 2
    assert [figure.measured for figure in figures if not figure.met] == []


def test_the_points_tried_are_all_there_are() -> None:
    assert {*DOWNLOAD, *OF_A_ROUND} == DEVICE_POINTS
    assert not set(MOMENTS) & DEVICE_POINTS

"""Many devices and slow ones: the short version of ``benchmarks/reliability/crowd.py``."""

from pathlib import Path

import pytest

from benchmarks.reliability import crowd


@pytest.mark.timeout(300)
def test_a_hundred_held_devices_cost_little_and_all_come_back(tmp_path: Path) -> None:
    memory, _ = crowd.held(tmp_path / "held", 100, 18.0, 4.0)
    assert memory.met, memory


@pytest.mark.timeout(300)
def test_rounds_go_on_beside_uploads_that_trickle(tmp_path: Path) -> None:
    """How fast is measured by the benchmark; here the rounds must end while every slow upload is held."""
    assert "20 were still held" in crowd.slow(tmp_path / "slow", 20, 1).measured

"""Damaged messages do no harm: the short version of ``benchmarks/reliability/malformed.py``."""

from pathlib import Path

import pytest

from benchmarks.reliability.malformed import BAD, Trial


@pytest.mark.parametrize(("secure", "count"), [(False, 1000), (True, 300)])
@pytest.mark.timeout(300)
def test_a_thousand_damaged_messages_are_refused_and_the_open_round_ends_as_if_none_had_been(
    tmp_path: Path, secure: bool, count: int
) -> None:
    trial = Trial(tmp_path / "trial", count, secure=secure).run()
    assert trial.wrong.total() == sum(trial.statuses[status] for status in BAD) == 0, trial.wrong
    assert trial.statuses.total() >= count
    assert trial.statuses["taken without end"] == 0
    assert (trial.lives, trial.defects, trial.same) == (1, 0, True)

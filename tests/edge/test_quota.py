"""A home keeps to its share of the disk: bundles that nobody uses make way, and one in use never does."""

import os
from pathlib import Path

import pytest

from edge.quota import Quota, mark_used
from ravan.errors import DiskFull, EnvironmentProblem

MB = 1_000_000


def held(home: Path, name: str, megabytes: int, age: int) -> Path:
    """A bundle that was used so many seconds ago."""
    folder = home / "bundles" / name
    folder.mkdir(parents=True)
    (folder / "weights.bin").write_bytes(bytes(megabytes * MB))
    os.utime(folder, (1e9 - age, 1e9 - age))
    return folder


def names(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "bundles").iterdir())


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Two whole bundles, half of a third, and a key."""
    held(tmp_path, "a" * 64, 3, age=30)
    held(tmp_path, "b" * 64, 2, age=20)
    held(tmp_path, "c" * 64 + ".partial", 1, age=10)
    (tmp_path / "key").write_bytes(b"k" * 100)
    return tmp_path


def test_what_was_used_longest_ago_goes_first_and_no_more_than_needed(home: Path) -> None:
    quota = Quota(home, 8 * MB)
    quota.make_room("d" * 64, MB, ())
    assert len(names(home)) == 3
    quota.make_room("d" * 64, 4 * MB, ())
    assert names(home) == ["b" * 64, "c" * 64 + ".partial"]
    assert (home / "key").exists()


def test_a_bundle_that_was_used_again_stays(home: Path) -> None:
    mark_used(home / "bundles" / ("a" * 64))
    Quota(home, 8 * MB).make_room("d" * 64, 3 * MB, ())
    assert names(home) == ["a" * 64, "c" * 64 + ".partial"]


def test_a_bundle_in_use_and_what_is_here_of_the_new_one_stay(home: Path) -> None:
    Quota(home, 8 * MB).make_room("c" * 64, 3 * MB, ("a" * 64,))
    assert names(home) == ["a" * 64, "c" * 64 + ".partial"]


def test_what_does_not_fit_at_all_is_one_sentence_and_nothing_is_lost(home: Path) -> None:
    with pytest.raises(
        EnvironmentProblem, match=r"takes 6\.0 MB more and 5\.0 MB are left for it: give --disk-mb 10 at"
    ):
        Quota(home, 8 * MB).make_room("d" * 64, 6 * MB, ("a" * 64,))
    assert len(names(home)) == 3
    Quota(home, 10 * MB).make_room("d" * 64, 6 * MB, ("a" * 64,))
    assert names(home) == ["a" * 64]


def test_without_a_quota_the_disk_is_the_limit(home: Path) -> None:
    with pytest.raises(DiskFull, match="on this disk: free some space"):
        Quota(home).make_room("d" * 64, 10**18, ())
    Quota(home).make_room("d" * 64, MB, ())
    assert len(names(home)) == 3


def test_the_cache_goes_last_and_only_if_no_bundle_is_in_use(home: Path) -> None:
    (home / "hidden.sqlite").write_bytes(bytes(MB))
    with pytest.raises(EnvironmentProblem):
        Quota(home, 8 * MB).make_room("d" * 64, 5 * MB, ("a" * 64,))
    Quota(home, 8 * MB).make_room("d" * 64, 5 * MB, ())
    assert names(home) == ["c" * 64 + ".partial"]
    assert (home / "hidden.sqlite").exists()
    Quota(home, 8 * MB).make_room("d" * 64, 8 * MB - 1000, ())
    assert names(home) == []
    assert not (home / "hidden.sqlite").exists()


def test_a_home_without_bundles_has_room(tmp_path: Path) -> None:
    Quota(tmp_path, MB).make_room("a" * 64, MB, ())
    assert Quota(tmp_path, MB).free == MB

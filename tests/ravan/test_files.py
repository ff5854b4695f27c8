import stat
from pathlib import Path

import pytest

from ravan.errors import EnvironmentProblem
from ravan.files import link_atomically, move_atomically, new_folder, write_atomically


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ravan.files.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_moves_whole_or_goes_with_its_failed_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, path = tmp_path / "partial", tmp_path / "file"
    source.write_bytes(b"new")
    path.write_bytes(b"old")
    with monkeypatch.context() as failing:
        failing.setattr("ravan.files.os.fsync", _broken)
        with pytest.raises(OSError, match="broken"):
            move_atomically(source, path)
    assert (path.read_bytes(), source.exists()) == (b"old", False)
    source.write_bytes(b"new")
    move_atomically(source, path)
    assert (path.read_bytes(), source.exists()) == (b"new", False)


def test_another_name_keeps_its_file_when_the_first_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last, best = tmp_path / "last", tmp_path / "best"
    write_atomically(last, b"one")
    write_atomically(best, b"before")
    link_atomically(last, best)
    write_atomically(last, b"two")
    assert (last.read_bytes(), best.read_bytes()) == (b"two", b"one")
    monkeypatch.setattr("ravan.files.os.link", _broken)  # a disk without hard links
    link_atomically(last, best)
    assert best.read_bytes() == b"two"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "last"]


def _broken(*_: object) -> None:
    raise OSError(5, "broken")


def test_a_secret_is_its_users_alone_whatever_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"open")
    write_atomically(path, b"secret", 0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a" / "b") as folder:
        (folder / "file").write_text("x")
        assert not (tmp_path / "a" / "b").exists()
    assert (tmp_path / "a" / "b" / "file").read_text() == "x"
    with pytest.raises(EnvironmentProblem, match="exists already"), new_folder(tmp_path / "a" / "b"):
        pass
    with pytest.raises(ValueError, match="stop"), new_folder(tmp_path / "c"):
        raise ValueError("stop")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]

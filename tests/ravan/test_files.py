import stat
from pathlib import Path

import pytest

from ravan.errors import EnvironmentProblem
from ravan.files import new_folder, write_atomically


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

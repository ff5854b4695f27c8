"""The same files make the same archive, whoever packs them and when."""

import os
import tarfile
from pathlib import Path

from release.packing import pack, unpack


def write(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "b" / "link").symlink_to("two")
    (folder / "run").chmod(0o750)
    return folder


def test_order_times_and_owners_change_nothing(tmp_path: Path) -> None:
    names = ["run", "b/two", "b/one", "a"]
    first, second = write(tmp_path / "1" / "it", names), write(tmp_path / "2" / "it", names[::-1])
    os.utime(second / "a", (1, 1))
    (second / "a").chmod(0o600)
    pack(first, tmp_path / "1.tar.gz", 1_700_000_000)
    pack(second, tmp_path / "2.tar.gz", 1_700_000_000)
    assert (tmp_path / "1.tar.gz").read_bytes() == (tmp_path / "2.tar.gz").read_bytes()
    with tarfile.open(tmp_path / "1.tar.gz") as tar:
        assert {(entry.uname, entry.uid, entry.mtime) for entry in tar} == {("root", 0, 1_700_000_000)}
        assert tar.getmember("it/run").mode == 0o755
        assert tar.getmember("it/a").mode == 0o644


def test_what_was_packed_comes_back(tmp_path: Path) -> None:
    folder = write(tmp_path / "it", ["run", "b/two"])
    pack(folder, tmp_path / "it.tar.gz", 0)
    unpack(tmp_path / "it.tar.gz", tmp_path / "back")
    assert (tmp_path / "back/it/b/link").read_text() == "b/two"
    assert os.access(tmp_path / "back/it/run", os.X_OK)

"""Archives of the client: what unpacks, what never does, and how a folder's tree tells of every change."""

import os
import tarfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from ravan.archives import PROGRAM, tree_of, unpack
from ravan.errors import ReleaseError
from ravan.versions import is_newer, order
from tests.archives import SOUND, Entry, entry, program, write_archive


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "deep" / "out"
    folder.mkdir(parents=True)
    return folder


def test_a_sound_archive_unpacks_to_its_files_links_and_program(tmp_path: Path, out: Path) -> None:
    unpack(write_archive(tmp_path / "a.tar.gz", [*SOUND, program()]), out)
    assert os.access(out / PROGRAM, os.X_OK)
    assert (out / "_internal/lib.so").read_bytes() == b"library"
    assert not os.access(out / "_internal/lib.so", os.X_OK)
    assert tree_of(out).size == len(b"library") + len("#!/bin/sh\nexit 0\n")


LINK, HARD = tarfile.SYMTYPE, tarfile.LNKTYPE
HOSTILE: dict[str, tuple[Sequence[Entry], str]] = {
    "a path upwards": ([entry("ravan-edge/../../evil", b"x")], "outside of ravan-edge"),
    "an absolute path": ([entry("/tmp/evil", b"x")], "outside of ravan-edge"),
    "another folder": ([entry("evil/ravan-edge", b"x")], "outside of ravan-edge"),
    "a link upwards": ([entry("ravan-edge/l", kind=LINK, link="../../evil")], "leads out"),
    "an absolute link": ([entry("ravan-edge/l", kind=LINK, link="/etc/passwd")], "leads out"),
    "a link to nothing": ([entry("ravan-edge/l", kind=LINK, link="nothing")], "leads out"),
    "a link to itself": ([entry("ravan-edge/l", kind=LINK, link="l")], "leads out"),
    "links that lead out together": (
        [
            entry("ravan-edge/sub/up", kind=LINK, link=".."),
            entry("ravan-edge/out", kind=LINK, link="sub/up/../evil"),
        ],
        "leads out",
    ),
    "a file through a link": (
        [entry("ravan-edge/l", kind=LINK, link=".."), entry("ravan-edge/l/evil", b"x")],
        "can't be unpacked",
    ),
    "a hard link": ([entry("ravan-edge/h", kind=HARD, link="ravan-edge/ravan-edge")], "neither file nor folder"),
    "a device": ([entry("ravan-edge/d", kind=tarfile.CHRTYPE)], "neither file nor folder"),
    "a pipe": ([entry("ravan-edge/p", kind=tarfile.FIFOTYPE)], "neither file nor folder"),
    "a file twice": ([entry("ravan-edge/f", b"1"), entry("ravan-edge/f", b"2")], "can't be unpacked"),
    "a long name": ([entry("ravan-edge/" + "n" * 500, b"1")], "too long names"),
    "too many bytes": ([entry("ravan-edge/f", bytes(2000))], "more than its signature says"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_reaches_out_of_its_folder_is_refused(tmp_path: Path, out: Path, name: str) -> None:
    entries, reason = HOSTILE[name]
    archive = write_archive(tmp_path / "a.tar.gz", [program(), *entries])
    (tmp_path / "evil").write_text("before")
    before = sorted(p for p in tmp_path.rglob("*") if not p.is_relative_to(out))
    with pytest.raises(ReleaseError, match=reason):
        unpack(archive, out, 1000)
    assert sorted(p for p in tmp_path.rglob("*") if not p.is_relative_to(out)) == before
    assert (tmp_path / "evil").read_text() == "before"


def test_what_is_no_archive_of_a_client_is_refused_in_a_sentence(tmp_path: Path, out: Path) -> None:
    sound = write_archive(tmp_path / "a.tar.gz", [*SOUND, program()]).read_bytes()
    cases = {
        "noise": b"noise",
        "nothing": b"",
        "cut": sound[:-20],
        "flipped": sound[:60] + bytes([sound[60] ^ 255]) + sound[61:],
    }
    for name, data in cases.items():
        path = tmp_path / name
        path.write_bytes(data)
        (out / name).mkdir()
        with pytest.raises(ReleaseError):
            unpack(path, out / name)
    for name, made in {"none": entry("ravan-edge/x", b""), "no program": entry("ravan-edge/ravan-edge", b"x")}.items():
        (out / name).mkdir()
        with pytest.raises(ReleaseError, match="holds no program ravan-edge/ravan-edge"):
            unpack(write_archive(tmp_path / "b.tar.gz", [made]), out / name)


def link_instead(folder: Path) -> None:
    (folder / PROGRAM).unlink()
    (folder / PROGRAM).symlink_to("_internal/lib.so")


CHANGES: dict[str, Callable[[Path], object]] = {
    "a byte": lambda folder: (folder / "_internal/libs/lib.so.1").write_bytes(b"libraru"),
    "a file more": lambda folder: (folder / "_internal/evil.py").write_bytes(b""),
    "a file less": lambda folder: (folder / "_internal/lib.so").unlink(),
    "a mode": lambda folder: (folder / "_internal/libs/lib.so.1").chmod(0o755),
    "a name": lambda folder: (folder / "_internal/libs/lib.so.1").rename(folder / "_internal/libs/lib.so.2"),
    "a link for a file": link_instead,
    "a linked folder more": lambda folder: (folder / "evil").symlink_to("/tmp"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_tree_tells_of_every_change(tmp_path: Path, out: Path, name: str) -> None:
    archive = write_archive(tmp_path / "a.tar.gz", [*SOUND, program()])
    unpack(archive, out)
    before = tree_of(out)
    again = tmp_path / "again"
    again.mkdir()
    unpack(archive, again)
    assert tree_of(again) == before
    CHANGES[name](out)
    assert tree_of(out) != before


def test_versions_are_ordered_as_people_read_them() -> None:
    rising = ["0.1.0", "0.2.0a1", "0.2.0b1", "0.2.0rc1", "0.2.0rc2", "0.2.0", "0.2.1", "0.10.0", "1.0", "1.0.1"]
    assert sorted(rising, key=order) == rising
    assert all(is_newer(b, a) and not is_newer(a, b) for a, b in pairwise(rising))
    assert not is_newer("1.0", "1.0.0")
    assert not is_newer("1.0.0", "1.0")
    for wrong in ("", "1.", "v1", "1.0 ", "1.0-evil", "1.0/..", "1.0.dev1", "1" * 9, "1.0\n", "\u0661.0"):
        with pytest.raises(ReleaseError, match="is no version"):
            order(wrong)

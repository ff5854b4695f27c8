"""Where a device's work lies between two lives."""

import hashlib
from pathlib import Path

import pytest

from edge.desk import BASE, CHECKPOINT, FINISHED, Desk
from edge.outbox import Finished
from protos.ravan.v1 import fleet_pb2 as pb
from ravan.errors import MalformedUpdate

DONE = Finished(pb.UploadHeader(device_id="d", binding=pb.Binding(round=7), size=4), b"data", b"rest")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "work" / "one", tmp_path / "one.left-out")


def test_a_base_is_fetched_once_and_again_if_it_is_another_or_damaged(desk: Desk) -> None:
    fetched = []

    def fetch(data: bytes) -> Path:
        return desk.base(hashlib.sha256(data).hexdigest(), lambda: fetched.append(data) or data)  # type: ignore[func-returns-value]

    assert fetch(b"one") == fetch(b"one") == fetch(b"two")
    assert fetched == [b"one", b"two"]
    (desk.folder / BASE).write_bytes(b"damaged")
    assert fetch(b"two").read_bytes() == b"two"
    with pytest.raises(MalformedUpdate, match="sha256"):
        desk.base("0" * 64, lambda: b"other")


def test_a_finished_update_waits_until_it_is_settled(desk: Desk) -> None:
    DONE.write(desk.folder / FINISHED)
    for name in (BASE, CHECKPOINT):
        (desk.folder / name).write_bytes(b"x")
    again = Desk(desk.folder, desk.left_out)  # as after a restart
    assert again.finished == DONE
    again.settle(DONE)
    assert list(desk.folder.iterdir()) == []
    assert desk.left_out.read_bytes() == b"rest"
    assert desk.left_out.stat().st_mode & 0o077 == 0


def test_an_exact_update_leaves_what_earlier_ones_left_out(desk: Desk) -> None:
    desk.left_out.write_bytes(b"of another run")
    desk.settle(Finished(DONE.header, DONE.data, b""))
    assert desk.left_out.read_bytes() == b"of another run"


@pytest.mark.parametrize("place", [0, 40, -1])
def test_a_damaged_update_is_dropped(desk: Desk, place: int) -> None:
    path = desk.folder / FINISHED
    DONE.write(path)
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    assert desk.finished is None
    assert not path.exists()
    path.write_bytes(b"short")
    assert desk.finished is None


def test_what_a_killed_process_left_half_written_is_removed(desk: Desk) -> None:
    half = desk.folder / f".{CHECKPOINT}.123-456.tmp"
    half.write_bytes(b"half")
    Desk(desk.folder, desk.left_out)
    assert not half.exists()

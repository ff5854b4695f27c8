"""Every upload stands in the owner's record, those too that nobody answered."""

import json
import stat
from dataclasses import replace
from pathlib import Path

from edge.upload_log import KEPT, RECEIVED, UPLOADS, Upload, UploadLog, read_uploads

UPLOAD = Upload("phone", "run-1", 1, "b" * 64, 1234, "5" * 64, {"layer.0.query": [0, 2]}, "int8")


def test_an_upload_is_on_disk_before_it_is_sent_and_its_receipt_after(tmp_path: Path) -> None:
    record = UploadLog(tmp_path)
    record.began(UPLOAD)
    (only,) = read_uploads(tmp_path)
    assert (only["outcome"], only["bytes"], only["heads"]) == ("began", 1234, {"layer.0.query": [0, 2]})
    record.ended(UPLOAD, RECEIVED, "run-1/1/phone")
    (only,) = read_uploads(tmp_path)
    assert (only["outcome"], only["receipt"]) == ("received", "run-1/1/phone")
    assert only["began"] <= only["ended"]  # type: ignore[operator]
    assert stat.S_IMODE((tmp_path / UPLOADS).stat().st_mode) == 0o600


def test_lines_are_only_ever_appended(tmp_path: Path) -> None:
    record, path, before = UploadLog(tmp_path), tmp_path / UPLOADS, b""
    for number in range(5):
        record.began(replace(UPLOAD, round=number))
        record.ended(replace(UPLOAD, round=number), "round-closed")
        assert path.read_bytes().startswith(before)
        before = path.read_bytes()
    assert all(json.loads(line)["time"].endswith("Z") for line in before.splitlines())
    assert [upload["outcome"] for upload in read_uploads(tmp_path)] == ["round-closed"] * 5


def test_the_record_has_a_bounded_size_and_loses_its_oldest_first(tmp_path: Path) -> None:
    record = UploadLog(tmp_path, largest=2000)
    for number in range(100):
        record.began(replace(UPLOAD, round=number))
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == [UPLOADS, *(f"{UPLOADS}.{n}" for n in range(1, KEPT + 1))]
    assert all(path.stat().st_size <= 2000 for path in tmp_path.iterdir())
    rounds = [upload["round"] for upload in read_uploads(tmp_path)]
    assert rounds == list(range(100 - len(rounds), 100))
    assert len(rounds) > 20


def test_a_line_torn_by_a_power_cut_costs_no_other(tmp_path: Path) -> None:
    record, path = UploadLog(tmp_path), tmp_path / UPLOADS
    record.began(UPLOAD)
    path.write_bytes(path.read_bytes() + b'{"time": "2026')
    record.began(replace(UPLOAD, round=2))
    assert [upload["round"] for upload in read_uploads(tmp_path)] == [1, 2]


def test_a_home_that_sent_nothing_has_no_uploads(tmp_path: Path) -> None:
    assert list(read_uploads(tmp_path)) == []

"""The client does all it does without what is left out of its binary."""

import subprocess
from pathlib import Path

import pytest
from PIL import Image

from ravan.runtime.images import KINDS
from tests.conftest import ROOT, sentences, write_rows
from tests.e2e.processes import FAST, Fleet, edge_python

WITHOUT = ROOT / "tests" / "release" / "without.py"
COMMANDS = ("run", "enroll", "rotate", "bench", "personalize", "predict")


def without(*arguments: str | Path) -> str:
    command = [edge_python(), str(WITHOUT), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_left_out_is_refused_here() -> None:
    done = subprocess.run([edge_python(), str(WITHOUT), "xml.sax"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "xml" in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    assert f" {command} [OPTIONS]" in without("edge", command, "--help")


def test_it_trains_and_uploads(tmp_path: Path, bundle_folder: Path) -> None:
    fleet = Fleet(tmp_path, program=(edge_python(), str(WITHOUT), "edge"))
    try:
        server = fleet.serve("--until-finished")
        fleet.create(bundle_folder, rounds=1, local_steps=2, clients_per_round=1, **FAST)
        fleet.device("device", write_rows(tmp_path / "shard.jsonl", sentences(12, 1)))
        fleet.finished()
        assert server.wait(30) == 0
    finally:
        fleet.end()


def test_every_kind_of_image_is_read(tmp_path: Path) -> None:
    for kind in KINDS:
        Image.new("RGB", (8, 6), (250, 20, 20)).save(tmp_path / f"image{kind}")
    assert without("tests.release.read_images", tmp_path) == "8 x 6\n" * len(KINDS)

"""Points at which tests kill the server: all named once, and out of reach unless asked for."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ravan.faults import DEVICE_POINTS, POINTS, RELEASE_POINTS, VARIABLE, Fault
from tests.conftest import ROOT


def test_every_point_is_named_and_reached_somewhere() -> None:
    sources = [*(ROOT / "server").rglob("*.py"), *(ROOT / "ravan").rglob("*.py"), *(ROOT / "edge").rglob("*.py")]
    marked = re.findall(r'reached\("([\w-]+)"\)', "".join(path.read_text("utf-8") for path in sources))
    assert set(marked) == POINTS | DEVICE_POINTS | RELEASE_POINTS


def test_a_fault_waits_for_its_point_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    monkeypatch.setattr("ravan.faults.os.kill", lambda process, _: killed.append(process))
    fault = Fault("committed", 2)
    for point in ("committed", "file-synced", "round-closed"):
        fault.reach(point)
    assert not killed
    fault.reach("committed")
    assert killed == [os.getpid()]


@pytest.mark.parametrize("fault", ["", "committed", "committed:0", "committed:x", "no-such-point:1"])
def test_a_server_does_not_start_with_a_fault_that_is_none(tmp_path: Path, fault: str) -> None:
    command = [sys.executable, "-m", "server.cli", "serve", "--state", str(tmp_path), "--insecure"]
    done = subprocess.run(
        command, env={**os.environ, VARIABLE: fault}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr == f"error: {VARIABLE}={fault} is no point and time: it is for tests alone, leave it unset.\n"

"""The systemd unit is one that systemd takes, and keeps the client a guest."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

UNIT = ROOT / "release" / "ravan-edge.service"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_it(tmp_path: Path) -> None:
    program = tmp_path / "ravan-edge"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / UNIT.name  # with a program that is there, which is the one thing of it that may differ
    unit.write_text(UNIT.read_text().replace("/opt/ravan-edge/ravan-edge", str(program)))
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert UNIT.name not in done.stderr, done.stderr  # unknown settings are warnings


def test_it_has_a_user_a_limit_and_the_last_turn() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    service = unit["Service"]
    wanted = {"DynamicUser": "yes", "StateDirectory": "ravan-edge", "CPUSchedulingPolicy": "idle"}
    wanted |= {"IOSchedulingClass": "idle", "ProtectSystem": "strict", "NoNewPrivileges": "yes"}
    assert {name: service.get(name) for name in wanted} == wanted
    assert "MemoryMax" in service
    assert "NoExecPaths" not in service  # newer clients run from the state's folder

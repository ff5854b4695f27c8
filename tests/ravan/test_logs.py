"""Logs that a stranger can't fill, of which no line is torn."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from ravan.cli.logs import Repeats


def test_refusals_of_a_code_are_logged_once_a_second_and_none_is_forgotten() -> None:
    now = 100.0
    repeats = Repeats(lambda: now)

    def logged(code: str) -> object:
        try:
            return repeats(None, "", {"event": "refused", "code": code}).get("left_out", 0)
        except structlog.DropEvent:
            return None

    assert [logged("a"), logged("a"), logged("b"), logged("a")] == [0, None, 0, None]
    now = 101.0
    assert [logged("a"), logged("b")] == [2, 0]


def test_everything_else_is_logged() -> None:
    repeats = Repeats(lambda: 0.0)
    for _ in range(3):
        assert repeats(None, "", {"event": "round published"}) == {"event": "round published"}


@pytest.mark.parametrize("event", [{"event": "refused"}])
def test_a_refusal_without_a_code_is_no_error(event: dict[str, object]) -> None:
    assert Repeats(lambda: 0.0)(None, "", event) == event


def test_a_line_is_written_at_once_however_python_buffers() -> None:
    """A client and its worker, which write to one file, tear no line of one another."""
    code = "import structlog; from ravan.cli.logs import configure_logs; configure_logs(); log = structlog.get_logger()"
    ours, theirs = os.pipe2(os.O_DIRECT)  # a read gives what one write gave
    command = [sys.executable, "-u", "-c", f"{code}; log.info('one'); log.info('two')"]
    subprocess.run(command, stderr=theirs, cwd=Path(__file__).parents[2], check=True)
    os.close(theirs)
    with open(ours, "rb", buffering=0) as pipe:
        said = [pipe.read(4096), pipe.read(4096)]
    assert [json.loads(line)["event"] for line in said] == ["one", "two"]

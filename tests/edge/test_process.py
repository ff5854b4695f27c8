"""The worker as a child process: paused, continued, ended, and gone with its client."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.errors import WorkerEnded
from edge.process import WorkerProcess

ECHO = "import sys\nfor line in sys.stdin:\n    print(line, end='', flush=True)"
CLIENT = """
import sys
from edge.process import WorkerProcess
worker = WorkerProcess([sys.executable, "-c", sys.argv[1]])
worker.send({"n": 1})
assert worker.receive(30) == {"n": 1}
worker.pause()
print(worker.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    process = WorkerProcess([sys.executable, "-c", ECHO])
    yield process
    process.end()


def state_of(pid: int) -> str:
    """One letter, as in ps; empty for one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


def until_state(pid: int, *wanted: str) -> None:
    end = time.monotonic() + 20
    while state_of(pid) not in wanted:
        assert time.monotonic() < end, state_of(pid)
        time.sleep(0.01)


def test_messages_go_both_ways_and_none_is_no_error(worker: WorkerProcess) -> None:
    for number in range(3):
        worker.send({"n": number})
    assert [worker.receive(20) for _ in range(3)] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert worker.receive(0.01) is None


def test_a_paused_worker_does_nothing_until_it_goes_on(worker: WorkerProcess) -> None:
    worker.pause()
    until_state(worker.pid, "T")
    worker.send({"n": 1})
    assert worker.receive(0.2) is None
    worker.go_on()
    assert worker.receive(20) == {"n": 1}


def test_a_paused_worker_ends_when_it_is_told_to(worker: WorkerProcess) -> None:
    worker.pause()
    worker.end()
    assert not worker.runs


def test_a_worker_that_is_killed_is_told_in_one_sentence(worker: WorkerProcess) -> None:
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(WorkerEnded, match=r"^The worker was ended by SIGKILL \(as the system does .*checkpoint\.$"):
        worker.receive(20)
    with pytest.raises(WorkerEnded):
        worker.send({"n": 1})


def test_a_worker_that_ends_by_itself_is_told_with_its_code() -> None:
    process = WorkerProcess([sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(WorkerEnded, match="exit code 3"):
        process.receive(20)
    process.end()


def test_a_paused_worker_does_not_outlive_a_killed_client() -> None:
    command = [sys.executable, "-c", CLIENT, ECHO]
    client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert client.stdout is not None
    assert client.stdin is not None
    pid = int(client.stdout.readline())
    until_state(pid, "T")
    client.kill()
    client.wait()
    client.stdin.close()
    client.stdout.close()
    until_state(pid, "", "Z")

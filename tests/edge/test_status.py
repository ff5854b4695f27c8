"""What a client says of itself can be read while it runs, and after it was killed."""

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import ravan
from edge.status import STATUS, Board, Doing, read_status
from edge.telling import facts, words
from edge.upload_log import RECEIVED, Upload, UploadLog

SENTENCE = "other programs ask for 3.2 cores and should ask for at most 1.0"
CLIENT = """
import sys, time
from pathlib import Path
from edge.status import Board, Doing
home = Path(sys.argv[1])
board = Board(home, {"phone": Path("diary.txt")}, "server.example:7071")
board.say("phone", Doing.TRAINING, run="run-1", round=3, steps=100)
board.step("phone", 40, 1.25)
print("said", flush=True)
time.sleep(60)
"""


def board(home: Path) -> Board:
    return Board(home, {"phone": Path("diary.txt"), "tablet": Path("notes.txt")}, "server.example:7071")


def test_what_is_said_can_be_read_and_is_its_owners_alone(tmp_path: Path) -> None:
    said = board(tmp_path)
    said.say("phone", Doing.TRAINING, run="run-1", round=3, steps=100)
    said.step("phone", 40, 1.25)
    said.say("phone", Doing.PAUSED, why=(SENTENCE,))
    status = read_status(tmp_path)
    assert status is not None
    phone = status.devices["phone"]
    assert (phone.doing, phone.why, phone.step, phone.loss) == (Doing.PAUSED, (SENTENCE,), 40, 1.25)
    assert status.is_alive
    assert status.devices["tablet"].doing is Doing.STARTING
    said.say("phone", Doing.TRAINING)
    again = read_status(tmp_path)
    assert again is not None
    assert again.devices["phone"].why == ()
    assert stat.S_IMODE((tmp_path / STATUS).stat().st_mode) == 0o600


def test_a_reader_never_sees_half_a_status(tmp_path: Path) -> None:
    said, stop, seen = board(tmp_path), threading.Event(), list[object]()

    def read() -> None:
        while not stop.is_set():
            seen.append(read_status(tmp_path))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(300):
        said.say("phone", Doing.TRAINING, round=number, why=("x" * number,))
    stop.set()
    reader.join()
    assert seen
    assert None not in seen


def test_a_client_that_was_killed_is_told_from_one_that_runs_and_one_that_ended(tmp_path: Path) -> None:
    client = subprocess.Popen([sys.executable, "-c", CLIENT, str(tmp_path)], stdout=subprocess.PIPE)
    assert client.stdout is not None
    client.stdout.readline()
    running = "\n".join(words(tmp_path))
    assert f"(version {ravan.__version__}, process {client.pid})" in running
    assert "phone trains since" in running
    assert "round 3, step 40 of 100 (loss 1.250)" in running
    client.send_signal(signal.SIGKILL)
    client.wait()
    client.stdout.close()
    killed = "\n".join(words(tmp_path))
    assert "it was killed or lost power" in killed
    assert "phone was last seen so: trains since" in killed
    said = board(tmp_path)
    for name in ("phone", "tablet"):
        said.say(name, Doing.ENDED)
    status = read_status(tmp_path)
    assert status is not None
    assert status.ended_well


def test_another_process_with_the_same_number_is_not_the_client(tmp_path: Path) -> None:
    board(tmp_path)
    path = tmp_path / STATUS
    path.write_text(path.read_text().replace(f'"pid": {os.getpid()}', '"pid": 1'))
    assert facts(tmp_path)["running"] is False


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"version": 99}', '{"version": 1, "devices": {"a": {}}}'])
def test_what_is_no_status_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / STATUS).write_text(text)
    assert read_status(tmp_path) is None
    assert "No client has run here yet" in next(words(tmp_path))


def test_waiting_says_why_and_until_when_and_a_server_that_is_away_shows(tmp_path: Path) -> None:
    said = board(tmp_path)
    said.say("phone", Doing.WAITING, why=("the server has no run",), until=time.time() + 60)
    said.is_away("tablet", "unavailable")
    lines = "\n".join(words(tmp_path))
    assert "phone waits for a task since" in lines
    assert ": the server has no run, and asks again at " in lines
    assert "tablet can't reach server.example:7071 since" in lines
    said.answered("tablet")
    said.failed("phone", "The disk is full.")
    lines = "\n".join(words(tmp_path))
    assert "can't reach" not in lines
    assert "phone had a problem at" in lines


def test_what_was_sent_and_what_it_takes_is_told(tmp_path: Path) -> None:
    assert "No update has been sent from here." in list(words(tmp_path))
    record = UploadLog(tmp_path)
    upload = Upload("phone", "run-1", 7, "b" * 64, 1_250_000, "5" * 64, {}, "fp32")
    record.began(upload)
    assert facts(tmp_path)["unanswered"] == 1
    record.ended(upload, RECEIVED, "run-1/7/x")
    (tmp_path / "bundles" / ("b" * 64)).mkdir(parents=True)
    lines = list(words(tmp_path))
    assert any(line.startswith("1 update sent, 1.2 MB in all") and "receipt run-1/7/x" in line for line in lines)
    assert "holds 1 bundle and takes" in lines[-1]


def test_a_full_disk_does_not_stop_the_client(tmp_path: Path) -> None:
    said = board(tmp_path)
    (tmp_path / f".{STATUS}.tmp").symlink_to("/dev/full")  # which says that no space is left, as a full disk does
    said.say("phone", Doing.TRAINING)
    status = read_status(tmp_path)
    assert status is not None
    assert status.devices["phone"].doing is Doing.STARTING
    said.say("phone", Doing.UPLOADING)
    status = read_status(tmp_path)
    assert status is not None
    assert status.devices["phone"].doing is Doing.UPLOADING

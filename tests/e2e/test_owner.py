"""A real client as its owner meets it: it gives way, says why, shows what it would send, and leaves."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from edge.machine import family, stat_fields
from edge.status import DeviceStatus, Doing, read_status
from ravan.bundle import Bundle
from tests.conftest import sentences, write_rows
from tests.e2e.processes import FAST, Fleet, run_of, until
from tests.edge.machines import LAPTOP, FakeMachine

CALM = ("--calm-seconds", "0.5")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "phone.jsonl", sentences(60, 1))


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    """What the client takes for its machine."""
    return FakeMachine.of(tmp_path / "machine", LAPTOP)


def phone(fleet: Fleet) -> DeviceStatus:
    """What the client says of its only device."""
    status = read_status(fleet.folder / "home")
    return DeviceStatus() if status is None else status.devices["phone"]


def does(fleet: Fleet, doing: Doing) -> None:
    until(lambda: phone(fleet).doing is doing, f"the client to be {doing}: {fleet.log('home')}")


def told(fleet: Fleet, *command: str) -> str:
    """What a command of ravan-edge says of the home, beside its client."""
    done = fleet.run("ravan-edge", *command, "--home", str(fleet.folder / "home"))
    assert done.returncode == 0, done.stderr
    return done.stdout


def stopped(pid: int) -> bool:
    """Whether all that a process started is stopped."""
    states = [(stat_fields(child) or ["gone"])[0] for child in family(pid)[1:]]
    return bool(states) and set(states) == {"T"}


def test_training_gives_way_at_once_and_goes_on_later(
    fleet: Fleet, bundle_folder: Path, data: Path, machine: FakeMachine
) -> None:
    server = fleet.serve("--until-finished")
    fleet.create(bundle_folder, rounds=1, clients_per_round=1, local_steps=800, deadline=600, **FAST)
    machine.load(3.2)
    options = (*CALM, "--max-load", "1", "--machine-root", str(machine.root))
    client = fleet.device("home", data, options=options)
    does(fleet, Doing.HELD)
    assert "phone takes no task since" in told(fleet, "status")
    assert fleet.status()["devices"] == []  # it does not even ask
    machine.load(0.1)
    until(lambda: phone(fleet).step > 0, "training to begin")
    machine.load(3.2)
    does(fleet, Doing.PAUSED)
    assert stopped(client.pid)
    at = phone(fleet).step
    said = told(fleet, "status")
    assert "phone is paused since" in said
    why = "other programs ask for 3.2 cores and should ask for at most"
    assert f"{why} 1.0" in said or f"{why} 0.8" in said  # what was too much, or what is little enough to go on
    assert phone(fleet).step == at
    assert 0 < at < 800
    machine.load(0.1)
    fleet.finished()
    assert server.wait(30) == 0
    (only,) = run_of(fleet)["rounds"]
    assert (only["state"], only["received"]) == ("ROUND_STATE_PUBLISHED", 1)
    facts = json.loads(told(fleet, "status", "--format", "json"))
    assert (facts["updates"], facts["running"], facts["unanswered"]) == (1, False, 0)
    assert facts["bytes_up"] == int(only["bytes_up"])
    assert "the last one at" in told(fleet, "status")


def test_a_paused_client_that_is_killed_says_so_and_goes_on(
    fleet: Fleet, bundle_folder: Path, data: Path, machine: FakeMachine
) -> None:
    server = fleet.serve("--until-finished")
    fleet.create(bundle_folder, rounds=1, clients_per_round=1, local_steps=300, deadline=600, **FAST)
    options = (*CALM, "--on-mains", "--machine-root", str(machine.root), "--checkpoint-seconds", "0")
    client = fleet.device("home", data, options=options)
    until(lambda: phone(fleet).step > 0, "training to begin")
    machine.supply("AC", online=0)
    does(fleet, Doing.PAUSED)
    worker = family(client.pid)[1]
    fleet.kill("home")
    until(lambda: stat_fields(worker) in (None, ["Z"]) or (stat_fields(worker) or [""])[0] == "Z", "the worker to end")
    said = told(fleet, "status")
    assert "it was killed or lost power" in said
    assert "phone was last seen so: is paused" in said
    machine.supply("AC", online=1)
    fleet.device("home", data, options=options)
    fleet.finished()
    assert server.wait(30) == 0
    assert run_of(fleet)["rounds"][0]["received"] == 1


def test_a_finished_update_waits_while_the_network_is_metered(fleet: Fleet, bundle_folder: Path, data: Path) -> None:
    server = fleet.serve("--until-finished")
    fleet.create(bundle_folder, rounds=1, clients_per_round=1, local_steps=200, deadline=600, **FAST)
    fleet.device("home", data)
    until(lambda: phone(fleet).step > 0, "training to begin")
    flag = fleet.folder / "home" / "metered"
    flag.touch()
    does(fleet, Doing.UPLOADING)
    assert "uploads its update of round 1 since" in told(fleet, "status")
    assert "its network is metered" in told(fleet, "status")
    assert "No update has been sent from here." in told(fleet, "uploads")
    assert run_of(fleet)["rounds"][0]["received"] == 0
    flag.unlink()
    fleet.finished()
    assert server.wait(30) == 0
    (line,) = told(fleet, "uploads").splitlines()
    assert "round 1" in line
    assert run_of(fleet)["run_id"] in line  # of the receipt


def test_a_dry_run_shows_every_byte_and_sends_none(
    fleet: Fleet, bundle: Bundle, bundle_folder: Path, data: Path
) -> None:
    fleet.serve()
    fleet.create(bundle_folder, rounds=1, clients_per_round=1, local_steps=8, wire="int8", deadline=600, **FAST)
    options = ("--heads", "0.5", "--dry-run", "--format", "json")
    assert fleet.device("home", data, options=options).wait(60) == 0, fleet.log("home")
    log = fleet.log("home")
    shown = json.loads(log[f"\n{log}".index("\n{\n") : log.rindex("\n}\n") + 3])  # between lines of the log
    assert shown["wire"] == "int8"
    assert sum(content["bytes"] for content in shown["contents"]) == int(shown["header"]["size"])
    spec = bundle.manifest.adapter
    names = [content["name"] for content in shown["contents"]]
    assert {tensor.name for tensor in spec.saved} < set(names)
    assert all(content["moved"] > 0 for content in shown["contents"][1:])
    part, *_ = run_of(fleet)["rounds"]
    assert (part["received"], part["failed"], part["bytes_up"]) == (0, 1, "0")
    assert fleet.status()["devices"][0]["failure"].startswith("dry-run: The owner of the device looked")  # type: ignore[index]
    assert "No update has been sent from here." in told(fleet, "uploads")
    assert not list((fleet.folder / "home" / "work").rglob("finished"))


def test_an_owner_who_leaves_keeps_the_record_and_nothing_else(fleet: Fleet, bundle_folder: Path, data: Path) -> None:
    """After a real run over TLS, so that whatever a client keeps of it is there to be deleted."""
    fleet.secure = True
    fleet.run("ravan-server", "init")
    server = fleet.serve("--until-finished")
    token = fleet.run("ravan-server", "devices", "token").stdout.strip()
    fleet.enroll("home", token)
    fleet.create(bundle_folder, rounds=1, clients_per_round=1, local_steps=8, wire="int8", **FAST)
    fleet.device("home", data)
    fleet.finished()
    assert server.wait(30) == 0
    server = fleet.serve()
    home = fleet.folder / "home"
    assert "60 usable examples" in told(fleet, "doctor", "--data", str(data))
    said = told(fleet, "leave", "--yes")
    assert "The server keeps 1 update that is counted already" in said
    assert {path.name for path in home.iterdir()} <= {"lock", "worker.lock", "uploads.jsonl"}
    listed: Any = json.loads(fleet.run("ravan-server", "devices", "list", "--format", "json").stdout)
    assert listed["devices"][0]["left"] is True
    server.send_signal(signal.SIGINT)
    assert server.wait(30) == 0

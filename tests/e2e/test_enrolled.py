"""Whole federations over TLS: init, serve, token, enroll, run, revoke, as operator and owners type them."""

import json
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ravan.bundle import open_bundle
from ravan.rpc.keys import new_key, public_hex
from ravan.rpc.vouching import sign_bundle
from server.signatures import sign_folder
from server.sql_state import DATABASE, open_sqlite
from server.tls import Tls
from tests.conftest import sentences, write_rows
from tests.e2e.processes import Fleet, until

FAST = {"poll_min": 0.05, "poll_max": 0.1, "batch_size": 8, "clients_per_round": 2, "min_devices": 2}


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    running = Fleet(tmp_path, secure=True)
    made = running.run("ravan-server", "init")
    assert made.returncode == 0, made.stderr
    assert "ravan-server devices token" in made.stdout
    yield running
    running.end()


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    return [write_rows(tmp_path / f"shard-{number}.jsonl", sentences(30, number)) for number in range(3)]


def failures(fleet: Fleet) -> list[str]:
    status: Any = fleet.status()
    return [device["failure"] for device in status["devices"]]


def resident(pid: int, what: str = "VmRSS") -> float:
    """Of a process's memory, MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{what}:")) * 1024 / 1e6


def test_an_idle_client_is_small(fleet: Fleet, shards: list[Path]) -> None:
    fleet.serve()
    fleet.enroll("idle", *tokens(fleet, 1))
    client = fleet.device("idle", shards[0], options=("--no-until-finished",))
    until(lambda: '"name": "shard-0"' in json.dumps(fleet.status()), "a check-in")
    until(lambda: resident(client.pid) < 40, "memory to be given back")
    time.sleep(2)
    assert resident(client.pid) < 40


def tokens(fleet: Fleet, count: int) -> list[str]:
    return fleet.run("ravan-server", "devices", "token", "--count", str(count)).stdout.split()


def test_enrolled_devices_finish_a_run_and_one_makes_itself_a_new_key(
    fleet: Fleet, shards: list[Path], bundle_folder: Path
) -> None:
    server = fleet.serve("--until-finished")
    fleet.create(bundle_folder, rounds=2, local_steps=5, **FAST)
    first, second, third = tokens(fleet, 3)
    fleet.enroll("alone", first)
    names = ("--name", "shard-1", "--name", "shard-2", "--token", third)
    fleet.enroll("both", second, *names)
    kept = next((fleet.folder / "alone" / "devices").glob("*.json"))
    old = json.loads(kept.read_text())
    kept.write_text(json.dumps({**old, "made_at": time.time() - 91 * 86_400}))
    fleet.device("alone", shards[0])
    fleet.device("both", *shards[1:])
    fleet.finished()
    assert server.wait(30) == 0
    status: Any = fleet.status()
    assert [r["state"] for r in status["runs"][0]["rounds"]] == ["ROUND_STATE_PUBLISHED"] * 2
    assert len(status["devices"]) == 3
    assert json.loads(kept.read_text())["device_id"] in {device["device_id"] for device in status["devices"]}
    assert json.loads(kept.read_text())["key"] != old["key"]


def test_a_revoked_device_ends_and_the_run_goes_on_without_it(
    fleet: Fleet, shards: list[Path], bundle_folder: Path
) -> None:
    server = fleet.serve("--until-finished")
    fleet.create(bundle_folder, rounds=1, local_steps=5, **FAST)
    for name, token in zip(("lost", "one", "two"), tokens(fleet, 3), strict=True):
        fleet.enroll(name, token)
    lost = fleet.device("lost", shards[0])
    with closing(open_sqlite(fleet.state)) as state:
        until(state.devices, "the first device to check in")
    identity = json.loads(next((fleet.folder / "lost" / "devices").glob("*.json")).read_text())
    revoked = fleet.run("ravan-server", "devices", "revoke", identity["device_id"][:8])
    assert revoked.returncode == 0, revoked.stderr
    assert lost.wait(60) == 7
    del fleet.processes["lost"]
    assert fleet.log("lost").strip().splitlines()[-1] == (
        "error: This device was revoked by the operator: ask for a new token to enroll again."
    )
    assert "Traceback" not in fleet.log("lost")
    fleet.device("one", shards[1])
    fleet.device("two", shards[2])
    fleet.finished()
    assert server.wait(30) == 0
    (only,) = fleet.status()["runs"][0]["rounds"]  # type: ignore[index]
    assert (only["state"], only["selected"], only["received"]) == ("ROUND_STATE_PUBLISHED", 2, 2)


def test_what_an_owner_can_do_wrong_is_one_sentence(fleet: Fleet, shards: list[Path]) -> None:
    fleet.serve()
    (token,) = tokens(fleet, 1)
    (fleet.folder / "noise.pem").write_text("noise")
    server = ["--server", f"127.0.0.1:{fleet.port}"]
    trusting = [*server, "--ca", "server/tls/ca.pem"]
    fleet.enroll("used", token)
    data = ["--data", str(shards[0])]
    cases: list[tuple[list[str], int, str]] = [
        (["enroll", *trusting, "--token", token], 7, "Another device enrolled with this token"),
        (["enroll", *trusting, "--token", "ravan-guess"], 7, "There is no such token"),
        (["enroll", *server, "--token", token], 7, "is not trusted"),
        (["enroll", *server, "--ca", "noise.pem", "--token", token], 2, "holds no certificate"),
        (["enroll", *trusting, "--token", token, "--name", "a", "--name", "b"], 2, "a --token for each --name"),
        (["run", *data], 7, "is not enrolled in ravan-edge"),
        (["run", *data, "--insecure", *server], 7, "speaks TLS"),
        (["run", *data, "--insecure", "--server", "10.0.0.1:1"], 2, "is not this machine"),
    ]
    for arguments, code, sentence in cases:
        done = fleet.run("ravan-edge", *arguments)
        lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
        assert (done.returncode, len(lines)) == (code, 1), done.stderr
        assert lines[0].startswith("error: ")
        assert sentence in lines[0]
    listed = json.loads(fleet.run("ravan-server", "devices", "list", "--format", "json").stdout)
    assert listed["refused"] == {"used-token": 1, "wrong-token": 1}
    assert [device["last_seen"] for device in listed["devices"]] == [0.0]


def test_no_device_loads_a_bundle_that_the_operators_key_did_not_sign(
    fleet: Fleet, shards: list[Path], bundle_folder: Path
) -> None:
    fleet.serve()
    fleet.create(bundle_folder, rounds=1, local_steps=5, **{**FAST, "clients_per_round": 1, "min_devices": 1})
    with closing(sqlite3.connect(fleet.state / DATABASE)) as db, db:  # as one would who has the server, but not the key
        db.execute(
            "UPDATE runs SET bundle_signature = ?",
            [sign_bundle(new_key(), open_bundle(bundle_folder).manifest.bundle_id)],
        )
    fleet.enroll("one", *tokens(fleet, 1))
    fleet.device("one", shards[0])
    until(lambda: "did not sign bundle" in fleet.log("one"), "the device to refuse")
    assert "fetching bundle" not in fleet.log("one")
    assert list((fleet.folder / "one" / "bundles").iterdir()) == []
    until(lambda: failures(fleet) == ["bad-bundle: The device's own log says why."], "the server to be told")


def test_a_key_kept_elsewhere_signs_elsewhere(fleet: Fleet, bundle_folder: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(bundle_folder, tmp_path / "bundle")
    elsewhere = shutil.copytree(fleet.state, tmp_path / "elsewhere")
    (fleet.state / "tls" / "operator.key").unlink()
    fleet.serve()
    create = ("ravan-server", "create", "--bundle", str(bundle), "--rounds", "1")
    refused = fleet.run(*create)
    assert refused.returncode != 0
    assert refused.stderr.strip().splitlines()[-1] == (
        f"error: The signature of {bundle} is missing, so that no device would load it: run ravan-server sign {bundle} "
        "where operator.key is, and create the run again."
    )
    sign_folder(bundle, Tls.of(elsewhere).operator())
    assert fleet.run(*create).returncode == 0


def test_a_device_that_knows_the_operators_key_enrolls_with_no_server_of_another(fleet: Fleet, tmp_path: Path) -> None:
    fleet.serve()
    other = tmp_path / "other.pub"
    other.write_text(public_hex(new_key()))
    (token,) = tokens(fleet, 1)
    where = ("--server", f"127.0.0.1:{fleet.port}", "--ca", "server/tls/ca.pem", "--home", "one", "--token", token)
    refused = fleet.run("ravan-edge", "enroll", *where, "--operator", str(other))
    assert refused.returncode != 0
    assert "names another operator's key" in refused.stderr
    assert "Traceback" not in refused.stderr
    fleet.enroll("one", token, "--operator", "server/tls/operator.pub")
    kept = json.loads(next((fleet.folder / "one" / "devices").glob("*.json")).read_text())
    assert kept["operator"] == Tls.of(fleet.state).operator_holder()

"""A release of the client from the operator's hands to a device that runs it, over TLS, with real processes.

The clients are scripts that run the edge environment's source as the frozen program does, under versions of their own.
"""

import json
import platform
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edge.clients import newer_clients
from ravan.rpc.keys import new_key
from ravan.rpc.vouching import Archive
from server.blobs import FileBlobs
from server.records import Release
from server.sql_state import open_sqlite
from tests.archives import SOUND, program, signed_archive, write_archive
from tests.conftest import sentences, write_rows
from tests.e2e.processes import FAST, Fleet, edge_python, until

OFTEN = ("--update-hours", "0.0003")
ONE = FAST | {"clients_per_round": 1, "min_devices": 1}


def script(version: str, before: str = "") -> str:
    """A client that takes itself for a frozen one of this version."""
    return f"""#!{edge_python()}
import sys
sys.frozen, sys.executable = True, __file__
import ravan
ravan.__version__ = "{version}"
{before}
from edge.__main__ import main
main()
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """A server, and an enrolled device whose owner installed version 0.1.0."""
    installed = tmp_path / "opt" / "ravan-edge"
    installed.parent.mkdir()
    installed.write_text(script("0.1.0"))
    installed.chmod(0o755)
    running = Fleet(tmp_path, secure=True, program=(str(installed),))
    made = running.run("ravan-server", "init")
    assert made.returncode == 0, made.stderr
    running.serve()
    running.enroll("home", running.run("ravan-server", "devices", "token").stdout.strip())
    yield running
    running.end()


def release(fleet: Fleet, version: str, before: str = "") -> None:
    """Signs a version and offers it, as the operator does."""
    name = f"ravan-edge-{version}-linux-{platform.machine()}.tar.gz"
    archive = write_archive(fleet.folder / name, [*SOUND, program(script(version, before))])
    done = fleet.run("ravan-server", "release", str(archive))
    assert done.returncode == 0, done.stderr


def rows(fleet: Fleet) -> Path:
    return write_rows(fleet.folder / "shard.jsonl", sentences(30, 1))


def software(fleet: Fleet) -> str:
    """What the server knows of the device."""
    with closing(open_sqlite(fleet.state)) as state:
        return "".join(device.software for device in state.devices())


def has_published(fleet: Fleet) -> bool:
    status: Any = fleet.status()
    return [r["state"] for r in status["runs"][0].get("rounds", ())] == ["ROUND_STATE_PUBLISHED"]


def test_a_device_switches_to_a_signed_client_and_takes_part_with_it(fleet: Fleet, bundle_folder: Path) -> None:
    process = fleet.device("home", rows(fleet), options=("--no-until-finished", *OFTEN))
    until(lambda: "ravan-fl 0.1.0" in software(fleet), "the installed client to check in")
    release(fleet, "0.2.0")
    until(lambda: "ravan-fl 0.2.0" in software(fleet), "the new client to check in", 120)
    assert process.poll() is None  # the same process, another program
    assert "/clients/0.2.0-" in Path(f"/proc/{process.pid}/cmdline").read_text()
    until(lambda: newer_clients(fleet.folder / "home")[0].answered, "its trial to end")
    fleet.create(bundle_folder, rounds=1, local_steps=3, **ONE)
    until(lambda: has_published(fleet), "a round with the new client")
    told = json.loads(
        fleet.run("ravan-edge", "status", "--home", str(fleet.folder / "home"), "--format", "json").stdout
    )
    assert (told["client"]["software"], told["updates"]) == ("0.2.0", 1)
    release(fleet, "0.3.0")
    until(lambda: "ravan-fl 0.3.0" in software(fleet), "the next client to check in", 120)
    until(lambda: [each.archive.version for each in newer_clients(fleet.folder / "home")] == ["0.3.0"], "the old to go")
    process.terminate()
    assert process.wait(30) == 0, fleet.log("home")
    assert "Traceback" not in fleet.log("home")
    again = fleet.device("home", rows(fleet), options=("--no-until-finished", *OFTEN))
    until(lambda: "/clients/0.3.0-" in Path(f"/proc/{again.pid}/cmdline").read_text(), "it to start as the newest")


def test_a_broken_release_is_given_up_and_the_device_goes_on(fleet: Fleet, bundle_folder: Path) -> None:
    options = ("--no-until-finished", *OFTEN)
    process = fleet.device("home", rows(fleet), options=options)
    until(lambda: "ravan-fl 0.1.0" in software(fleet), "the installed client to check in")
    release(fleet, "0.2.0", 'import os; sys.argv[1] == "_client" and os.abort()')

    def given_up() -> bool:
        nonlocal process
        if process.poll() is not None:  # as systemd does
            process = fleet.device("home", rows(fleet), options=options)
        return any(each.given_up for each in newer_clients(fleet.folder / "home"))

    until(given_up, "the release to be given up", 150)
    fleet.create(bundle_folder, rounds=1, local_steps=3, **ONE)
    until(lambda: has_published(fleet), "a round with the installed client")
    assert "ravan-fl 0.1.0" in software(fleet)
    told = fleet.run("ravan-edge", "status", "--home", str(fleet.folder / "home")).stdout
    assert "Version 0.2.0 was given up" in told


def test_a_stolen_server_ships_no_code_without_the_operators_key(fleet: Fleet) -> None:
    """Whoever has the server can write whatever they like into its state."""
    fleet.device("home", rows(fleet), options=("--no-until-finished", *OFTEN))
    path = fleet.folder / "evil.tar.gz"
    evil = signed_archive(path, new_key(), "0.9.0", platform.machine(), script("0.9.0"))
    with closing(open_sqlite(fleet.state)) as state, path.open("rb") as file:
        FileBlobs(fleet.state / "archives").put_file(file, evil.sha256)
        state.set_release(Release(Archive.from_proto(evil), evil.signature))
    until(lambda: "did not sign client 0.9.0" in fleet.log("home"), "the device to refuse")
    assert "fetching client" not in fleet.log("home")
    assert not (fleet.folder / "home" / "clients").exists()
    assert "ravan-fl 0.1.0" in software(fleet)

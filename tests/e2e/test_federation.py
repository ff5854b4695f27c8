"""Whole federations of real processes: a server, and devices that have no torch."""

import json
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ravan.bundle import open_bundle
from ravan.bundle_files import OPTIONAL
from server.sql_state import open_sqlite
from tests.conftest import sentences, write_rows
from tests.e2e.processes import FAST, Fleet, edge_python, until


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Three devices, each with a label it sees most of."""
    paths = []
    for number in range(3):
        rows = sentences(60, number)
        mine = [row for i, row in enumerate(rows) if i % 3 == number or i % 5 == 0]
        paths.append(write_rows(tmp_path / f"shard-{number}.jsonl", mine))
    return paths


def held_out(folder: Path) -> Path:
    return write_rows(folder / "held-out.jsonl", sentences(90, 99))


def rounds_of(status: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = status["runs"][0]["rounds"]
    return found


def states(status: dict[str, Any]) -> list[str]:
    return [r["state"].removeprefix("ROUND_STATE_") for r in rounds_of(status)]


def test_the_edge_environment_has_neither_torch_nor_transformers() -> None:
    code = "import importlib.util as u; print([m for m in ('torch', 'transformers', 'onnx') if u.find_spec(m)])"
    found = subprocess.run([edge_python(), "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert found.stdout.strip() == "[]"


def test_devices_without_torch_raise_the_accuracy_and_the_result_merges(
    fleet: Fleet, shards: list[Path], bundle_folder: Path
) -> None:
    server = fleet.serve("--until-finished")
    fleet.create(
        bundle_folder,
        evaluation=held_out(fleet.folder),
        rounds=6,
        clients_per_round=3,
        local_steps=20,
        learning_rate=0.01,
        saved_learning_rate=0.01,
        **FAST,
    )
    fleet.device("strong", *shards[:2])
    fleet.device("weak", shards[2], options=("--heads", "0.25"))
    fleet.finished()
    assert server.wait(30) == 0
    status = fleet.status()
    run: Any = status["runs"][0]  # type: ignore[index]
    assert run["state"] == "RUN_STATE_FINISHED"
    assert run["initial"]["accuracy"] < 0.6
    assert rounds_of(status)[-1]["evaluation"]["accuracy"] > 0.85
    devices: Any = status["devices"]
    assert {d["name"]: d["head_budget"] for d in devices} == {"shard-0": 1.0, "shard-1": 1.0, "shard-2": 0.25}
    weak = next(d for d in devices if d["name"] == "shard-2")
    strong = next(d for d in devices if d["name"] == "shard-0")
    assert 0 < int(weak["bytes_up"]) < int(strong["bytes_up"])
    best = next((fleet.state / "published").glob("*/best.safetensors"))
    command = [sys.executable, "-m", "export.cli", "merge", str(bundle_folder), str(best), "--out", "merged"]
    merged = subprocess.run(command, cwd=fleet.folder, capture_output=True, text=True, check=False)
    assert merged.returncode == 0, merged.stderr
    assert (fleet.folder / "merged" / "model.onnx").exists()


def test_a_server_killed_while_clients_train_goes_on_with_the_round(
    fleet: Fleet, shards: list[Path], bundle_folder: Path
) -> None:
    fleet.serve()
    fleet.create(bundle_folder, rounds=2, clients_per_round=3, local_steps=1500, **FAST)
    fleet.device("one", *shards)
    until(lambda: '"training"' in fleet.log("one"), "training to begin")
    fleet.kill("server")
    until(lambda: "server away" in fleet.log("one"), "the client to say that the server is away")
    server = fleet.serve("--until-finished")
    fleet.finished()
    assert server.wait(30) == 0
    assert states(fleet.status()) == ["PUBLISHED", "PUBLISHED"]
    assert all(r["received"] == 3 for r in rounds_of(fleet.status()))


def test_a_client_killed_while_training_holds_no_round_and_rejoins(
    fleet: Fleet, shards: list[Path], bundle_folder: Path
) -> None:
    server = fleet.serve("--until-finished")
    fleet.create(bundle_folder, rounds=2, clients_per_round=2, min_devices=2, deadline=15, local_steps=700, **FAST)
    fleet.device("steady", shards[0])
    fleet.device("killed", shards[1])
    until(lambda: '"training"' in fleet.log("killed"), "training to begin")
    fleet.kill("killed")
    until(lambda: "round published" in fleet.log("server"), "the round to close at its deadline")
    fleet.device("killed", shards[1])
    fleet.finished()
    assert server.wait(30) == 0
    first, second = rounds_of(fleet.status())
    assert (first["selected"], first["received"]) == (2, 1)
    assert (second["selected"], second["received"]) == (2, 2)
    assert len(fleet.status()["devices"]) == 2  # type: ignore[arg-type]


def test_ctrl_c_stops_both_sides_and_loses_nothing(fleet: Fleet, shards: list[Path], bundle_folder: Path) -> None:
    server = fleet.serve()
    fleet.create(bundle_folder, rounds=1, clients_per_round=1, local_steps=100_000, deadline=3600, **FAST)
    client = fleet.device("one", shards[0])
    until(lambda: '"training"' in fleet.log("one"), "training to begin")
    client.send_signal(signal.SIGINT)
    assert client.wait(20) in (0, 130), fleet.log("one")
    server.send_signal(signal.SIGINT)
    assert server.wait(20) == 0, fleet.log("server")
    assert "Traceback" not in fleet.log("server") + fleet.log("one")
    status = fleet.status()
    assert status["serving"] is False
    assert states(status) == ["COLLECTING"]


def test_a_shard_without_examples_ends_its_client_and_the_server_is_told(
    fleet: Fleet, tmp_path: Path, bundle_folder: Path
) -> None:
    fleet.serve()
    fleet.create(bundle_folder, rounds=1, clients_per_round=1, **FAST)
    empty = tmp_path / "secret-name.jsonl"
    empty.write_text('{"text": "private words", "label": "no such label"}\n')
    client = fleet.device("one", empty, options=("--skip-bad", "--name", "empty"))
    assert client.wait(60) == 4
    assert "holds no usable example (1 lines skipped)" in fleet.log("one")
    assert "Traceback" not in fleet.log("one")
    devices: Any = fleet.status()["devices"]
    assert devices[0]["failure"].startswith("no-examples")
    assert "secret-name" not in json.dumps(fleet.status())
    assert "private words" not in fleet.log("server")


def test_a_damaged_bundle_is_fetched_again_before_any_session(
    fleet: Fleet, shards: list[Path], bundle_folder: Path
) -> None:
    fleet.serve()
    fleet.create(bundle_folder, rounds=1, clients_per_round=1, local_steps=2, **FAST)
    bundle_id = open_bundle(bundle_folder).manifest.bundle_id
    held = shutil.copytree(bundle_folder, fleet.folder / "one" / "bundles" / bundle_id)
    content = bytearray((held / "weights.bin").read_bytes())
    content[100] ^= 1
    (held / "weights.bin").write_bytes(content)
    fleet.device("one", shards[0])
    fleet.finished()
    assert "weights.bin in the bundle" in fleet.log("one")
    assert open_bundle(held, may_lack=OPTIONAL)


def test_a_port_in_use_is_one_sentence_and_an_exit_code(fleet: Fleet) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", fleet.port))
        taken.listen()
        assert fleet.serve().wait(30) == 5
    assert f"127.0.0.1:{fleet.port} can't be used: choose another port" in fleet.log("server")
    assert "Traceback" not in fleet.log("server")


def test_two_servers_never_share_a_state(fleet: Fleet) -> None:
    fleet.serve()
    second = Fleet(fleet.folder)
    second.start(
        "second",
        [sys.executable, "-m", "server.cli", "serve", "--insecure", "--listen", "127.0.0.1:0", "--state", "server"],
    )
    assert second.processes["second"].wait(30) == 5
    assert "Another server uses" in second.log("second")
    assert open_sqlite(fleet.state).runs() == []


@pytest.mark.parametrize(
    "command",
    [["edge.cli", "run", "--data", "x.jsonl", "--home", "file/home"], ["server.cli", "init", "--state", "file/state"]],
)
def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "file").write_text("")
    done = subprocess.run([sys.executable, "-m", *command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1


def test_devices_at_their_own_pace_learn_and_a_late_update_still_counts(
    fleet: Fleet, shards: list[Path], bundle_folder: Path
) -> None:
    server = fleet.serve("--until-finished")
    fleet.create(
        bundle_folder,
        evaluation=held_out(fleet.folder),
        mode="async",
        buffer=2,
        rounds=6,
        local_steps=40,
        learning_rate=0.01,
        saved_learning_rate=0.01,
        **FAST,
    )
    slow = fleet.device("slow", shards[2], options=("--heads", "0.5"))
    until(lambda: '"training"' in fleet.log("slow"), "training to begin")
    slow.send_signal(signal.SIGSTOP)
    fleet.device("fast", *shards[:2])
    until(lambda: fleet.log("server").count("round published") >= 2, "two adapters without the slow device")
    slow.send_signal(signal.SIGCONT)
    fleet.finished()
    assert server.wait(30) == 0
    rounds = rounds_of(fleet.status())
    assert [r["state"] for r in rounds] == ["ROUND_STATE_PUBLISHED"] * 6
    assert all(r["received"] == r["selected"] == 2 for r in rounds)
    assert max(r["staleness"] for r in rounds) >= 1  # of two updates one began at least two adapters before
    assert rounds[-1]["evaluation"]["accuracy"] > 0.8

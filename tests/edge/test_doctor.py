"""The doctor finds what stands in a device's way, on real servers, and says what to do."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge.cli import app
from edge.doctor import examine
from edge.enrollment import enroll
from edge.findings import Verdict
from edge.home import Home
from edge.identity import Identity
from edge.settings import DoctorSettings
from edge.status import Board
from ravan.bundle import Bundle
from server import client as operator
from server.certificates import initialize
from server.tls import Tls
from tests.conftest import sentences, write_rows
from tests.edge.machines import LAPTOP, FakeMachine
from tests.server.secured import Secured, secured

OK, WARNING, PROBLEM = Verdict


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with secured(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def device(server: Secured, tmp_path: Path) -> Identity:
    with closing(Home(tmp_path / "home")) as home:
        return enroll(home.identities, "", server.address, server.ca, server.token())


def found(tmp_path: Path, **settings: object) -> dict[str, tuple[Verdict, str]]:
    """The findings by check; the last one of a name."""
    chosen = DoctorSettings(home=tmp_path / "home", **settings)  # type: ignore[arg-type]
    return {finding.check: (finding.verdict, finding.sentence) for finding in examine(chosen)}


def test_a_healthy_device_is_told_so_even_while_its_client_runs(
    device: Identity, bundle: Bundle, tmp_path: Path
) -> None:
    shutil.copytree(bundle.folder, tmp_path / "home" / "bundles" / bundle.manifest.bundle_id)
    data = write_rows(tmp_path / "diary.jsonl", sentences(30, 1))
    with closing(Home(tmp_path / "home")):
        Board(tmp_path / "home", {"diary": data})
        findings = found(tmp_path)
    assert {check: verdict for check, (verdict, _) in findings.items() if verdict is not OK} == {}
    assert findings.keys() >= {
        *("home", "client", "enrolled", "server", "certificate", "clock", "let in", "disk"),
        *("bundle", "memory", "data", "versions", "conditions"),
    }
    assert findings["data"][1] == f"{data} has 30 usable examples."
    assert "its key is 0 days old and is replaced in 90 days" in findings["enrolled"][1]
    assert device.server in findings["server"][1]


def test_a_home_that_is_not_there_or_empty_is_told(tmp_path: Path) -> None:
    assert found(tmp_path)["home"][0] is PROBLEM
    with closing(Home(tmp_path / "home")):
        pass
    findings = found(tmp_path)
    assert findings["enrolled"] == (PROBLEM, f"No device is enrolled in {tmp_path / 'home'}: run ravan-edge enroll.")
    assert findings["data"][0] is WARNING


def test_a_server_that_is_away_or_another_is_told(device: Identity, tmp_path: Path) -> None:
    assert found(tmp_path, server="127.0.0.1:1")["server"] == (
        PROBLEM,
        "No server answers at 127.0.0.1:1 (unavailable): check the address and the network.",
    )
    other = Tls.of(tmp_path / "other")
    initialize(other, ["localhost"], renew=False)
    with secured(tmp_path / "other") as stranger:
        verdict, sentence = found(tmp_path, server=stranger.address)["server"]
        assert verdict is PROBLEM
        assert "is not trusted" in sentence
        assert found(tmp_path, server=stranger.address, insecure=True)["server"][1].endswith("leave out --insecure.")


def test_a_clock_that_is_off_is_told_by_how_much(device: Identity, tmp_path: Path) -> None:
    settings = DoctorSettings(home=tmp_path / "home")
    findings = {f.check: f for f in examine(settings, lambda: time.time() - 412)}
    assert findings["clock"].verdict is PROBLEM
    assert findings["clock"].sentence == "This machine's clock is 412 s behind the server's: set it."
    assert findings["let in"].verdict is PROBLEM


def test_a_device_that_was_revoked_is_told(device: Identity, server: Secured, tmp_path: Path) -> None:
    operator.revoke_device(server.control, device.device_id)
    assert found(tmp_path)["let in"] == (
        PROBLEM,
        "The server does not let this device in (revoked): "
        "This device was revoked by the operator: ask for a new token to enroll again.",
    )


def test_a_key_that_others_can_read_is_told(device: Identity, tmp_path: Path) -> None:
    (path,) = (tmp_path / "home" / "devices").iterdir()
    path.chmod(0o644)
    assert "Others can read the key" in found(tmp_path)["enrolled"][1]


def test_data_bundle_and_memory_that_are_of_no_use_are_told(bundle: Bundle, tmp_path: Path) -> None:
    with closing(Home(tmp_path / "home")):
        held = shutil.copytree(bundle.folder, tmp_path / "home" / "bundles" / bundle.manifest.bundle_id)
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    findings = found(tmp_path, data=(empty,), memory_mb=1)
    assert findings["data"][0] is PROBLEM
    assert findings["memory"][0] is PROBLEM
    assert "1 MB are free" in findings["memory"][1]
    assert found(tmp_path, data=(tmp_path / "gone.jsonl",))["data"][0] is PROBLEM
    (held / "train.onnx").write_bytes(b"")
    damaged, none = (f for f in examine(DoctorSettings(home=tmp_path / "home")) if f.check == "bundle")
    assert damaged.verdict is WARNING
    assert damaged.sentence.endswith("The client fetches it again.")
    assert none.sentence.startswith("No bundle is here yet")


def test_what_holds_training_up_now_is_told(tmp_path: Path) -> None:
    with closing(Home(tmp_path / "home")):
        (tmp_path / "home" / "metered").touch()
    machine = FakeMachine.of(tmp_path / "machine", LAPTOP)
    machine.supply("AC", online=0)
    settings = DoctorSettings(home=tmp_path / "home", on_mains=True, max_temperature=40, machine_root=machine.root)
    told = [f.sentence for f in examine(settings) if f.check == "conditions"]
    assert told == [
        "Training would wait now: it runs on battery and may train on mains only.",
        "Training would wait now: x86_pkg_temp is at 48 °C and should have at most 40 °C.",
        f"The network is metered ({tmp_path / 'home' / 'metered'} exists): no task is taken.",
    ]
    bare = DoctorSettings(home=tmp_path / "home", min_battery=40, max_temperature=40, machine_root=tmp_path)
    told = [f.sentence for f in examine(bare) if f.check == "conditions"]
    assert told[0].startswith("No thermal zone can be read here")
    assert told[1].startswith("No battery can be read here")


def test_a_problem_decides_the_exit_code(tmp_path: Path) -> None:
    with closing(Home(tmp_path / "home")):
        pass
    done = CliRunner().invoke(app, ["doctor", "--home", str(tmp_path / "home"), "--format", "json"])
    assert done.exit_code == 5
    assert '"problem"' in done.stdout


def test_status_takes_nothing_heavy_to_ask_for(tmp_path: Path) -> None:
    """It is asked often, on small machines."""
    code = "import sys, edge.telling, edge.status, edge.conditions, edge.upload_log; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "onnxruntime", "grpc", "tokenizers", "pydantic"} & set(loaded)

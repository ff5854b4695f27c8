"""The binary starts, measures, enrolls, trains and uploads where there is nothing but glibc and libz."""

import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.clients import newer_clients
from edge.status import read_status
from export.bundle import ExportOptions, export_bundle
from export.text_classifier import text_classifier
from ravan.bundle import INITIAL, Precision, open_bundle
from ravan.runtime.adapter import read_adapter
from ravan.spec import AdapterSpec
from ravan.update import Update, decode
from release.build import CHECKSUMS, LARGEST
from release.freeze import SOURCES
from release.glibc import needs
from tests.binary.conftest import Binary
from tests.conftest import LABELS, MAX_LENGTH, sentences, write_rows
from tests.e2e.processes import FAST, Fleet, edge_python, until

pytestmark = [pytest.mark.binary, pytest.mark.timeout(600)]
SYSTEM = {"libc", "libdl", "libm", "libpthread", "librt", "libz", "ld-linux-x86-64", "ld-linux-aarch64"}
CLOSE, ALIKE = 1e-5, 0.99


def run(binary: Binary, *arguments: str, folder: Path) -> str:
    command = [*binary.program(folder), *arguments]
    environment = binary.root.environment({})
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_archive_is_small_and_says_nothing_of_the_machine_that_made_it(binary: Binary) -> None:
    assert binary.archive.stat().st_size <= LARGEST
    data = gzip.decompress(binary.archive.read_bytes())
    for path in {str(SOURCES), str(Path.home()), os.path.expanduser("~")} - {"/", "/root"}:
        assert path.encode() not in data
    names = [path.name for path in binary.folder.rglob("*")]
    assert not [name for name in names if "torch" in name]
    sums = (binary.archive.parent / CHECKSUMS).read_text().splitlines()
    assert f"{hashlib.sha256(binary.archive.read_bytes()).hexdigest()}  {binary.archive.name}" in sums


def test_it_needs_no_library_that_it_does_not_bring(binary: Binary) -> None:
    found = needs(binary.folder)
    assert {name.partition(".so")[0] for name in found.libraries} <= SYSTEM
    assert found.glibc <= (2, 36)


def test_its_bill_of_materials_has_the_hash_of_every_library(binary: Binary) -> None:
    bill = json.loads(binary.archive.with_name(binary.archive.name.replace(".tar.gz", ".cdx.json")).read_text())
    listed = {
        part["name"]: part["hashes"][0]["content"] for each in bill["components"] for part in each.get("components", [])
    }
    internal = binary.folder / "_internal"
    libraries = [path for path in internal.rglob("*.so*") if path.is_file() and not path.is_symlink()]
    assert {path.relative_to(internal).as_posix() for path in libraries} == listed.keys()
    for path in libraries:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == listed[path.relative_to(internal).as_posix()]


def test_it_starts_and_measures_a_bundle(binary: Binary, bundle_folder: Path) -> None:
    assert run(binary, "--version", folder=bundle_folder).startswith("ravan-edge ")
    assert "personalize" in run(binary, "--help", folder=bundle_folder)
    options = ["--batch", "2", "--length", "8", "--steps", "2", "--format", "json"]
    measured = json.loads(run(binary, "bench", str(bundle_folder), *options, folder=bundle_folder))
    assert measured
    assert all(each["step_seconds"] > 0 for each in measured)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8])
def test_it_enrolls_and_trains_to_the_update_of_this_machine_from_source(
    fleet: Fleet, model_folder: Path, precision: Precision, binary: Binary, note: Callable[[str, float], None]
) -> None:
    bundle = exported(model_folder, fleet.folder / "bundle", precision)
    shard = write_rows(fleet.folder / "shard.jsonl", sentences(30, 3))
    server = fleet.serve()
    fleet.create(bundle, rounds=1, local_steps=5, clients_per_round=1, min_devices=1, **FAST)
    fleet.enroll("device", fleet.run("ravan-server", "devices", "token").stdout.strip())
    server.send_signal(signal.SIGTERM)
    assert server.wait(30) == 0
    twin = Fleet(fleet.folder / "twin", secure=True, program=(edge_python(), "-m", "edge.cli"), port=fleet.port)
    twin.folder.mkdir()
    for part in ("server", "device"):
        shutil.copytree(fleet.folder / part, twin.folder / part)
    spec = open_bundle(bundle).manifest.adapter
    start = numbers(decode(spec, (bundle / INITIAL).read_bytes()))
    ours = trained(fleet, spec, shard)
    try:
        theirs = trained(twin, spec, shard)
    finally:
        twin.end()
    moved, difference = theirs - start, float(np.abs(ours - theirs).max())
    cosine = float((ours - start) @ moved / np.linalg.norm(ours - start) / np.linalg.norm(moved))
    note(str(precision), difference)
    note(f"{precision}_cosine", cosine)
    assert np.abs(moved).max() > 1e-3
    if precision is Precision.FP32:
        assert difference <= CLOSE
    else:  # each kind of processor rounds its own way, and a step of 8 bits is wide
        assert cosine >= ALIKE


def exported(model_folder: Path, out: Path, precision: Precision) -> Path:
    options = ExportOptions(rank=4, precision=precision)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.quantize.SMALLEST", 32 * 32)  # the tiny model's layers count as products worth quantizing
        export_bundle(lambda: text_classifier(model_folder, LABELS, MAX_LENGTH), options, out, "model")
    return out


def trained(fleet: Fleet, spec: AdapterSpec, shard: Path) -> NDArray[np.float32]:
    """What the server published of a round in which one device took part: its update."""
    server = fleet.serve("--until-finished")
    fleet.device("device", shard)
    fleet.finished(300)
    assert server.wait(30) == 0
    (published,) = (fleet.state / "published").glob("*/last.safetensors")
    return numbers(read_adapter(published, spec))


def numbers(update: Update) -> NDArray[np.float32]:
    return np.concatenate([update.sH.ravel(), update.saved.ravel()])


def test_it_turns_into_a_release_and_is_answered(binary: Binary, fleet: Fleet) -> None:
    """The same archive under a newer version: what the operator signs is what counts."""
    fleet.serve()
    fleet.enroll("home", fleet.run("ravan-server", "devices", "token").stdout.strip())
    data = write_rows(fleet.folder / "private.jsonl", sentences(20, 1))
    process = fleet.device("home", data, options=("--no-until-finished", "--update-hours", "0.0003"))
    name = ("--version", "9.0.0", "--machine", binary.root.machine.name)
    released = fleet.run("ravan-server", "release", str(binary.archive), *name)
    assert released.returncode == 0, released.stderr
    home = fleet.folder / "home"
    until(lambda: any(each.answered for each in newer_clients(home)), "the newer client to be answered", 400)
    (newer,) = newer_clients(home)
    assert (newer.archive.version, newer.starts) == ("9.0.0", 0)  # its start went well
    assert process.poll() is None
    libraries = Path(f"/proc/{read_status(home).pid}/maps").read_text()  # type: ignore[union-attr]
    assert f"clients/{newer.name}/_internal/" in libraries
    assert "/opt/ravan-edge/_internal/" not in libraries

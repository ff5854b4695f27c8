"""Weights of over 2 GB go all the way, on devices that hold little of them in memory; run by ``make test-large``."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ravan.bundle import EVAL, TRAIN, WEIGHTS, Bundle, Precision, open_bundle
from tests.decoders import write_llama
from tests.e2e.processes import Fleet
from tests.large.watch import watched

pytestmark = [pytest.mark.large, pytest.mark.timeout(3600)]  # for a busy machine; a quiet one takes minutes for all

LARGEST_MESSAGE = 2**31 - 1  # bytes of a protobuf message
DEVICE_MEMORY = 1_500_000_000
WORKSTATION_MEMORY = 10_000_000_000
WIDE = {  # three layers as wide as those of Llama 3 8B: 654 million parameters
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 3,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "initializer_range": 0.02,
}


@pytest.fixture(scope="module")
def model() -> Iterator[Path]:
    """Random weights, 2.6 GB."""
    with tempfile.TemporaryDirectory() as folder:
        yield write_llama(Path(folder) / "wide-llama", **WIDE)


@pytest.fixture(scope="module")
def exported(model: Path) -> Iterator[Bundle]:
    """The model in float32."""
    with tempfile.TemporaryDirectory() as folder:
        yield export(model, Path(folder) / "bundle", Precision.FP32)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Unlike pytest's folders, removed whatever happens: it fills with gigabytes."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def fleet(scratch: Path) -> Iterator[Fleet]:
    running = Fleet(scratch)
    yield running
    running.end()


def export(model: Path, out: Path, precision: Precision) -> Bundle:
    command = ["causal-lm", str(model), "--rank", "16", "--max-length", "64", "--precision", precision]
    workstation(f"export in {precision}", *command, "--out", str(out))
    return open_bundle(out)


def workstation(what: str, *command: str) -> None:
    """Runs ravan-export in a process of its own, which may hold no more than ``WORKSTATION_MEMORY``."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "export.cli", *command])
    with watched(process.pid) as watch:
        assert process.wait() == 0
    print(f"\n{what}: {time.monotonic() - began:.0f} s, {watch.peak / 1e6:,.0f} MB of anonymous memory")
    assert watch.peak < WORKSTATION_MEMORY


def test_no_graph_holds_weights(exported: Bundle) -> None:
    assert exported.path(WEIGHTS).stat().st_size > LARGEST_MESSAGE
    assert max(exported.path(name).stat().st_size for name in (TRAIN, EVAL)) < 1_000_000


def test_a_small_device_trains_it_and_the_result_merges(exported: Bundle, fleet: Fleet, scratch: Path) -> None:
    text = scratch / "diary.txt"
    text.write_text("the same line again, and the same line again.\n" * 20)
    fleet.serve()
    options = {"rounds": 1, "clients_per_round": 1, "local_steps": 2, "batch_size": 2}
    options |= {"poll_min": 1, "poll_max": 1}
    fleet.create(exported.folder, **options)
    device = fleet.device("device", text, options=("--mapped-weights",))
    with watched(device.pid) as watch:
        assert device.wait(600) == 0, fleet.log("device")
    (only,) = fleet.status()["runs"][0]["rounds"]  # type: ignore[index]
    print(f"\ndevice: {watch.peak / 1e6:,.0f} MB of anonymous memory, loss {only['local_loss']:.4f}")
    assert watch.peak < DEVICE_MEMORY
    adapter = scratch / "adapter.safetensors"
    done = fleet.run("ravan-server", "export", str(adapter))
    assert done.returncode == 0, done.stderr
    fleet.end()
    workstation("merge", "merge", str(exported.folder), str(adapter), "--out", str(scratch / "merged"))
    assert (scratch / "merged" / "model.onnx.data").stat().st_size > LARGEST_MESSAGE


def test_its_products_are_calibrated_for_int8(exported: Bundle, model: Path, scratch: Path) -> None:
    int8 = export(model, scratch / "int8", Precision.INT8)
    assert int8.manifest.verification["int8_cosine"] > 0.99
    assert int8.path(WEIGHTS).stat().st_size < 0.6 * exported.path(WEIGHTS).stat().st_size

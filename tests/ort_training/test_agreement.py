"""The two runtimes do the same: from the same adapter and on the same batches they end in the same place."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edge.runtimes import Runtime, Runtimes
from ravan.bundle import Bundle
from ravan.runtime.footprint import PRESETS
from tests.conftest import ROOT
from tests.ort_training.twenty_steps import PLAN, Result, twenty_steps

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def stock(ort_bundle: Bundle, data: Path) -> Result:
    """With train.onnx on the onnxruntime of this environment."""
    return twenty_steps(ort_bundle.folder, data, Runtimes())


def require_same(seen: Result, wanted: Result) -> None:
    for name in ("sH", "saved", "losses"):
        np.testing.assert_allclose(seen[name], wanted[name], rtol=0, atol=TOLERANCE, err_msg=name)


def test_both_runtimes_end_in_the_same_place(ort_bundle: Bundle, data: Path, ort_python: Path, stock: Result) -> None:
    official = twenty_steps(ort_bundle.folder, data, Runtimes(Runtime.ORT_TRAINING, ort_python))
    assert np.abs(stock["sH"]).max() > 10 * PLAN.learning_rate  # it went somewhere
    require_same(official, stock)


def test_micro_batches_change_nothing(ort_bundle: Bundle, data: Path, ort_python: Path, stock: Result) -> None:
    runtimes = Runtimes(Runtime.ORT_TRAINING, ort_python)
    require_same(twenty_steps(ort_bundle.folder, data, runtimes, tokens=32), stock)


@pytest.mark.parametrize("runtime", [Runtime.ONNXRUNTIME, Runtime.ORT_TRAINING])
def test_a_device_with_onnxruntime_training_needs_no_torch_and_runs_both(
    runtime: Runtime, ort_bundle: Bundle, data: Path, ort_python: Path, stock: Result, tmp_path: Path
) -> None:
    arguments = [str(ort_bundle.folder), str(data), runtime, str(tmp_path / "out.npz")]
    command = [str(ort_python), "-m", "tests.ort_training.twenty_steps", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out.npz", allow_pickle=False) as seen:
        assert str(seen["version"]) == "1.19.2"
        assert not seen["torch"]
        require_same(dict(seen), stock)


def test_a_bench_compares_what_is_installed(ort_bundle: Bundle, ort_python: Path) -> None:
    command = [str(ort_python), "-m", "edge.cli", "bench", str(ort_bundle.folder), "--format", "json"]
    command += ["--batch", "2", "--length", "8", "--steps", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    both = [Runtime.ONNXRUNTIME, Runtime.ORT_TRAINING]
    assert [(row["runtime"], row["preset"]) for row in rows] == [
        (runtime, name) for runtime in both for name in PRESETS
    ]
    assert all(row["step_seconds"] > 0 for row in rows)
    stock, official = rows[0], rows[len(PRESETS)]
    assert official["peak_memory_bytes"] > stock["peak_memory_bytes"] / 2 + 20_000_000  # its process counts too

"""What would crash onnxruntime-training is caught before, and what still does costs no more than one call."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from ravan.bundle import INITIAL, Bundle, open_bundle
from ravan.bundle_files import ARTIFACTS, CHECKPOINT
from ravan.errors import BundleError, DataError, EnvironmentProblem, RuntimeProblem
from ravan.layout import Vector
from ravan.runtime.examples import random_batch
from ravan.runtime.names import ATTENTION_MASK, HIDDEN, INPUT_IDS, LABELS
from ravan.runtime.ort_training import OrtFailure, OrtProcess, OrtTrainStep, check_numbers, require_python
from ravan.runtime.session import Batch, RuntimeOptions, TrainStep
from ravan.update import decode
from tests.e2e.processes import until

OPTIONS = RuntimeOptions(threads=1)


@pytest.fixture(scope="module")
def step(ort_bundle: Bundle, ort_python: Path) -> Iterator[OrtTrainStep]:
    with closing(OrtTrainStep(ort_bundle, OPTIONS, ort_python)) as running:
        yield running


@pytest.fixture(scope="module")
def trainables(ort_bundle: Bundle) -> Vector:
    spec = ort_bundle.manifest.adapter
    flat = decode(spec, ort_bundle.path(INITIAL).read_bytes()).trainables(spec)
    flat[: spec.H_size] = np.random.default_rng(0).standard_normal(spec.H_size).astype(np.float32) * np.float32(0.1)
    return flat


@pytest.fixture(scope="module")
def batch(ort_bundle: Bundle) -> Batch:
    return random_batch(ort_bundle, 3, 8, np.random.default_rng(0))


def test_a_step_gives_the_loss_and_gradients_of_train_onnx(
    ort_bundle: Bundle, step: OrtTrainStep, trainables: Vector, batch: Batch
) -> None:
    seen, wanted = step(trainables, batch), TrainStep(ort_bundle)(trainables, batch)
    assert seen.weight == wanted.weight == 3
    assert seen.loss == pytest.approx(wanted.loss, abs=1e-6)
    np.testing.assert_allclose(seen.gradients, wanted.gradients, atol=1e-6)


def test_gradients_do_not_add_up_over_steps(step: OrtTrainStep, trainables: Vector, batch: Batch) -> None:
    first, second = (step(trainables, batch).gradients for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("label", [3, -1, 10**9, -(10**9)])
def test_a_label_out_of_range_never_reaches_the_runtime(
    step: OrtTrainStep, trainables: Vector, batch: Batch, label: int
) -> None:
    with pytest.raises(DataError, match=f"A label is {label}, the bundle knows 0 to 2"):
        step(trainables, {**batch, LABELS: np.array([0, label, 1])})
    assert np.isfinite(step(trainables, batch).loss)


def test_inputs_that_are_missing_or_no_numbers_never_reach_the_runtime(
    step: OrtTrainStep, trainables: Vector, batch: Batch
) -> None:
    without = {name: value for name, value in batch.items() if name != ATTENTION_MASK}
    for wrong in (without, {**batch, ATTENTION_MASK: batch[ATTENTION_MASK].astype(np.int32)}):
        with pytest.raises(DataError, match="Input attention_mask is"):
            step(trainables, wrong)
    for value in (np.nan, np.inf):
        with pytest.raises(DataError, match="Input hidden is not finite"):
            check_numbers({HIDDEN: np.array([[0, value]], np.float32)}, [HIDDEN])


def test_what_the_runtime_refuses_itself_is_told_and_the_next_step_runs(
    step: OrtTrainStep, trainables: Vector, batch: Batch
) -> None:
    with pytest.raises(RuntimeProblem, match=r"onnxruntime-training failed \(.*indices element out of data bounds"):
        step(trainables, {**batch, INPUT_IDS: np.full_like(batch[INPUT_IDS], 10**6)})
    assert np.isfinite(step(trainables, batch).loss)


def test_a_crash_inside_the_runtime_is_told_by_its_signal(
    ort_bundle: Bundle, ort_python: Path, trainables: Vector, batch: Batch
) -> None:
    spec = ort_bundle.manifest.adapter
    with closing(OrtProcess(ort_python, ort_bundle.folder, spec, OPTIONS)) as process:
        with pytest.raises(OrtFailure, match="SIGSEGV"):
            process.train(trainables, {**batch, LABELS: np.array([0, 10**9, 1])})
        with pytest.raises(OrtFailure, match="its process ended"):
            process.train(trainables, batch)


def test_evaluation_without_an_eval_model_is_refused_and_crashes_nothing(
    ort_bundle: Bundle, ort_python: Path, trainables: Vector, batch: Batch
) -> None:
    spec = ort_bundle.manifest.adapter
    with closing(OrtProcess(ort_python, ort_bundle.folder, spec, OPTIONS)) as process:
        with pytest.raises(OrtFailure, match="no eval model"):
            process.evaluate(trainables, batch)
        assert np.isfinite(process.train(trainables, batch)[0])


def test_a_killed_process_is_told_and_begun_anew(step: OrtTrainStep, trainables: Vector, batch: Batch) -> None:
    wanted = step(trainables, batch)
    assert step.pid is not None
    os.kill(step.pid, signal.SIGKILL)
    with pytest.raises(RuntimeProblem, match=r"onnxruntime-training failed \(its process ended: SIGKILL\)"):
        step(trainables, batch)
    np.testing.assert_array_equal(step(trainables, batch).gradients, wanted.gradients)


CLIENT = """
import sys, time
from pathlib import Path
from ravan.bundle import open_bundle
from ravan.runtime.ort_training import OrtTrainStep
from ravan.runtime.session import RuntimeOptions
step = OrtTrainStep(open_bundle(Path(sys.argv[1])), RuntimeOptions(threads=1), Path(sys.argv[2]))
print(step.pid, flush=True)
time.sleep(60)
"""


def test_the_process_outlives_no_client_not_even_a_killed_one(ort_bundle: Bundle, ort_python: Path) -> None:
    command = [sys.executable, "-c", CLIENT, str(ort_bundle.folder), str(ort_python)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        process = Path("/proc") / client.stdout.readline().strip()
        assert "ort_process" in (process / "cmdline").read_text()
        client.kill()
    until(lambda: not process.exists(), "the process to end", 10)


@pytest.mark.parametrize("name", ARTIFACTS)
def test_changed_bytes_are_found_before_anything_is_loaded(ort_bundle: Bundle, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(ort_bundle.folder, tmp_path / "bundle")
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"^{name} in the bundle .* was changed"):
        open_bundle(copy, may_lack=ARTIFACTS)


def test_artifacts_that_the_runtime_refuses_are_one_sentence(
    ort_bundle: Bundle, ort_python: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(ort_bundle.folder, tmp_path / "bundle")
    (copy / CHECKPOINT).write_bytes(b"no checkpoint")
    with pytest.raises(RuntimeProblem, match="onnxruntime-training failed"):
        OrtTrainStep(Bundle(copy, ort_bundle.manifest), OPTIONS, ort_python)


def test_a_process_that_cannot_be_started_is_one_sentence(ort_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(RuntimeProblem, match=r"its process can't be started: .*use --runtime onnxruntime"):
        OrtTrainStep(ort_bundle, OPTIONS, tmp_path / "an-environment-that-was-removed")


def test_a_python_without_the_runtime_is_told(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"can't be run .*'ravan-fl\[ort-training\]'"):
        require_python(tmp_path / "absent")

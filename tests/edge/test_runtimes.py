"""Which runtime trains: what the user wants, what is installed, what the bundle holds. Here onnxruntime alone is."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge.runtimes import Runtime, Runtimes
from edge.workshop import require_memory
from export.cli import app as export_app
from ravan.bundle import Bundle, Manifest, Precision
from ravan.bundle_files import ARTIFACTS, FileEntry
from ravan.errors import BundleError, EnvironmentProblem
from ravan.runtime.ort_training import find_python, require_python

SOMEWHERE = Path("/somewhere/python")


@pytest.fixture
def with_artifacts(bundle: Bundle) -> Manifest:
    """The manifest of a bundle that lists artifacts."""
    files = {**bundle.manifest.files, **dict.fromkeys(ARTIFACTS, FileEntry(1, "0" * 64))}
    return replace(bundle.manifest, files=files)


def test_left_to_itself_a_device_trains_with_what_is_installed(bundle: Bundle) -> None:
    assert find_python(None) is None
    assert find_python(SOMEWHERE) == SOMEWHERE
    assert Runtimes.find(Runtime.AUTO, None) == Runtimes(Runtime.ONNXRUNTIME, None)
    assert Runtimes.find(Runtime.ONNXRUNTIME, SOMEWHERE) == Runtimes(Runtime.ONNXRUNTIME, None)


def test_the_artifacts_are_for_float_bundles_that_hold_them(bundle: Bundle, with_artifacts: Manifest) -> None:
    both = Runtimes(Runtime.AUTO, SOMEWHERE)
    assert both.choose(with_artifacts) is Runtime.ORT_TRAINING
    assert both.choose(bundle.manifest) is Runtime.ONNXRUNTIME
    assert both.choose(replace(with_artifacts, precision=Precision.INT8)) is Runtime.ONNXRUNTIME
    assert Runtimes().choose(with_artifacts) is Runtime.ONNXRUNTIME


def test_only_who_trains_with_the_artifacts_downloads_them(bundle: Bundle, with_artifacts: Manifest) -> None:
    official = Runtimes(Runtime.ORT_TRAINING, SOMEWHERE)
    assert official.optional_files(with_artifacts) == ARTIFACTS
    assert Runtimes().optional_files(with_artifacts) == ()
    with pytest.raises(BundleError, match="no artifacts for onnxruntime-training: ask the operator"):
        official.optional_files(bundle.manifest)


def test_a_bench_of_one_runtime_is_not_of_the_other(bundle: Bundle) -> None:
    assert Runtimes(Runtime.AUTO, SOMEWHERE).usable(bundle) == [Runtimes()]
    with pytest.raises(BundleError, match="no artifacts"):
        Runtimes(Runtime.ORT_TRAINING, SOMEWHERE).usable(bundle)


def test_each_runtime_has_its_own_need_of_memory(bundle: Bundle) -> None:
    manifest = replace(bundle.manifest, memory={"small": 100, "ort-training": 300})
    both = Bundle(bundle.folder, manifest)
    require_memory(both, 200)
    with pytest.raises(EnvironmentProblem):
        require_memory(both, 200, Runtime.ORT_TRAINING)
    require_memory(both, 300, Runtime.ORT_TRAINING)


def test_a_python_with_the_other_package_is_told_apart() -> None:
    with pytest.raises(EnvironmentProblem, match=r"has no onnxruntime-training \(ModuleNotFound"):
        require_python(Path(sys.executable))


def test_a_runtime_that_is_not_there_ends_the_client_in_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edge.cli", "run", "--data", "x.jsonl", "--runtime", "ort-training"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == EnvironmentProblem.exit_code
    assert "onnxruntime-training 1.19.2 is not installed here" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_export_without_the_runtime_ends_before_the_model_is_loaded(tmp_path: Path) -> None:
    arguments = ["text-classifier", "no/such-model", "--labels", "2", "--rank", "4", "--with-ort-training"]
    error = CliRunner().invoke(export_app, [*arguments, "--out", str(tmp_path / "out")]).exception
    assert isinstance(error, EnvironmentProblem)
    assert "give its Python as --ort-training-python" in str(error)
    assert not (tmp_path / "out").exists()

"""The environment with onnxruntime-training, and a bundle with its artifacts; without it these tests are skipped."""

import os
from pathlib import Path

import pytest

from export.bundle import ExportOptions, export_bundle
from export.text_classifier import text_classifier
from ravan.bundle import Bundle
from ravan.runtime.ort_training import require_python
from tests.conftest import LABELS, MAX_LENGTH, ROOT, sentences, write_rows


@pytest.fixture(scope="session")
def ort_python() -> Path:
    """Its Python."""
    given = os.environ.get("RAVAN_TEST_ORT_PYTHON")
    python = Path(given or ROOT / ".venv-ort-training/bin/python")
    if not given and not python.exists():
        pytest.skip(f"{python} does not exist: run make setup-ort-training, or set RAVAN_TEST_ORT_PYTHON")
    return require_python(python)


@pytest.fixture(scope="session")
def ort_bundle(model_folder: Path, ort_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny model exported with artifacts; shared by all tests, so read only."""
    out, options = tmp_path_factory.mktemp("ort") / "bundle", ExportOptions(rank=4, ort_python=ort_python)
    return export_bundle(lambda: text_classifier(model_folder, LABELS, MAX_LENGTH), options, out, "model")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty sentences."""
    return write_rows(tmp_path_factory.mktemp("data") / "data.jsonl", sentences(60, 1))

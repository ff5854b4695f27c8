"""A bundle is trusted only whole: every file is checked before anything is loaded."""

import contextlib
import hashlib
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravan.bundle import SCHEMA, Bundle, Manifest, Task, open_bundle
from ravan.bundle_files import MANIFEST
from ravan.errors import BundleError
from ravan.spec import canonical_json

SINCE = {"language": 2, "image": 2, "micro_batch": 2, "memory": 2, "custom": 3, "inputs": 3, "seq2seq": 4, "needs": 4}


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    return shutil.copytree(bundle.folder, tmp_path / "bundle")


def test_a_manifest_survives_its_json(bundle: Bundle) -> None:
    again = Manifest.from_json(bundle.manifest.to_json())
    assert again == bundle.manifest
    assert again.bundle_id == bundle.manifest.bundle_id


@pytest.mark.parametrize("name", Task.TEXT_CLASSIFICATION.device_files)
def test_a_changed_file_is_named(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"^{name} in the bundle .* was changed"):
        open_bundle(copy)


@pytest.mark.parametrize("name", Task.TEXT_CLASSIFICATION.device_files)
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"^{name} is missing"):
        open_bundle(copy)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no training bundle"):
        open_bundle(tmp_path)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "..", "a\\b", "manifest.json", ""])
def test_a_file_outside_the_bundle_is_refused(bundle: Bundle, name: str) -> None:
    value = json.loads(bundle.manifest.to_json())
    value["files"][name] = {"size": 1, "sha256": "0" * 64}
    with pytest.raises(BundleError):
        Manifest.from_json(json.dumps(value))


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        ({"ravan": "7.1"}, r"needs ravan-fl 7\.1 or newer: .* schema {}, here is {}: .*'ravan-fl>=7\.1'\.$"),
        ({"ravan": "7' ; rm -rf ~ '"}, "needs a newer ravan-fl: .* schema {}, here is {}: .*'ravan-fl'\\.$"),
        ("none of ours", "needs a newer ravan-fl: .* schema {}, here is {}: .*'ravan-fl'\\.$"),
    ],
)
def test_a_newer_schema_says_which_version_it_needs(bundle: Bundle, needs: object, said: str) -> None:
    value = json.loads(bundle.manifest.to_json()) | {"schema": SCHEMA + 1, "needs": needs}
    with pytest.raises(BundleError, match=said.format(SCHEMA + 1, SCHEMA)):
        Manifest.from_json(json.dumps(value))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


FIELDS = ["schema", "adapter", "labels", "files", "source_files", "versions", "max_length", "custom", "inputs", "needs"]


@given(st.sampled_from(FIELDS), json_values)
def test_a_wrong_field_is_refused_by_a_sentence_or_read(bundle: Bundle, field: str, value: object) -> None:
    fields = json.loads(bundle.manifest.to_json())
    fields[field] = value
    with contextlib.suppress(BundleError):
        assert Manifest.from_json(json.dumps(fields)).bundle_id


@given(st.binary(max_size=60))
def test_bytes_that_are_no_json_are_refused(content: bytes) -> None:
    with pytest.raises(BundleError):
        Manifest.from_json(content)


def test_the_manifest_file_itself_is_the_canonical_one(bundle: Bundle) -> None:
    assert (bundle.folder / MANIFEST).read_text() == bundle.manifest.to_json()


@pytest.mark.parametrize("schema", range(1, SCHEMA))
def test_a_bundle_of_an_older_schema_keeps_its_id(bundle: Bundle, schema: int) -> None:
    value = json.loads(bundle.manifest.to_json()) | {"schema": schema}
    for name, since in SINCE.items():
        if since > schema:
            del value[name]
    old = canonical_json(value)
    manifest = Manifest.from_json(old)
    assert manifest.bundle_id == hashlib.sha256(old.encode()).hexdigest()
    assert manifest.task is Task.TEXT_CLASSIFICATION
    assert manifest.micro_batch == (1024 if schema == 1 else bundle.manifest.micro_batch)


@pytest.mark.parametrize("task", [Task.CAUSAL_LM, Task.IMAGE_CLASSIFICATION, Task.SEQ2SEQ, Task.CUSTOM])
def test_a_task_without_its_settings_is_refused(bundle: Bundle, task: Task) -> None:
    value = json.loads(bundle.manifest.to_json()) | {"task": task}
    with pytest.raises(BundleError, match=f"no settings for {task}"):
        Manifest.from_json(json.dumps(value))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("custom", {"loss": "hinge", "metric": "accuracy", "longest": {}}),
        ("custom", {"loss": "cross-entropy", "metric": "f1", "longest": {}}),
        ("custom", {"loss": "cross-entropy", "metric": "accuracy", "longest": {"time": 1}}),
        ("custom", ["cross-entropy"]),
        ("inputs", [{"name": "x", "dtype": "float64", "shape": ["batch"]}]),
        ("inputs", [{"name": "x", "dtype": "float32", "shape": ["batch", 0]}]),
        ("inputs", [{"name": "x", "dtype": "float32", "shape": []}]),
        ("inputs", {"x": "float32"}),
    ],
)
def test_custom_settings_and_inputs_that_make_no_sense_are_refused(bundle: Bundle, field: str, value: object) -> None:
    fields = json.loads(bundle.manifest.to_json()) | {field: value}
    with pytest.raises(BundleError, match="export the bundle again"):
        Manifest.from_json(json.dumps(fields))


@pytest.mark.parametrize(
    ("field", "value"),
    [("mean", [0.5, 0.5]), ("std", [0.0]), ("height", 0), ("width", 10**9), ("tokens", -1)],
)
def test_images_of_absurd_settings_are_refused(bundle: Bundle, field: str, value: object) -> None:
    image = {"height": 8, "width": 8, "mean": [0.5], "std": [0.5], "tokens": 5}
    fields = json.loads(bundle.manifest.to_json()) | {"image": image | {field: value}}
    with pytest.raises(BundleError, match="export the bundle again"):
        Manifest.from_json(json.dumps(fields))

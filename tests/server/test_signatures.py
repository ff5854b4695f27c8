"""Bundles that devices may load: signed by the operator's key, where it is kept, over what was checked."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from onnx import helper
from typer.testing import CliRunner

from ravan.bundle import TRAIN, Bundle, open_bundle
from ravan.bundle_files import MANIFEST, describe_file
from ravan.errors import BundleError
from ravan.rpc.keys import new_key, public_hex
from ravan.rpc.vouching import SIGNATURE, is_signed_bundle, sign_bundle
from server.certificates import initialize
from server.cli import app
from server.signatures import require_signature, sign_folder
from server.tls import Tls

KEY = new_key()
OPERATOR = public_hex(KEY)


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> Path:
    return shutil.copytree(bundle.folder, tmp_path / "bundle")


def test_what_is_signed_is_this_bundle_by_this_key_and_nothing_else(bundle: Bundle) -> None:
    bundle_id = bundle.manifest.bundle_id
    signature = sign_bundle(KEY, bundle_id)
    assert is_signed_bundle(OPERATOR, signature, bundle_id)
    assert not is_signed_bundle(OPERATOR, signature, "0" * 64)
    assert not is_signed_bundle(public_hex(new_key()), signature, bundle_id)
    assert not is_signed_bundle(OPERATOR, KEY.sign(bundle_id.encode()).hex(), bundle_id)
    assert not any(is_signed_bundle(OPERATOR, text, bundle_id) for text in ("", "zz", "0" * 128, signature[:-2]))
    assert not is_signed_bundle("", signature, bundle_id)


def test_a_run_needs_a_signature_given_or_beside_the_bundle(folder: Path) -> None:
    bundle_id = open_bundle(folder).manifest.bundle_id
    with pytest.raises(BundleError, match=rf"signature of {folder} is missing, .* run ravan-server sign {folder}"):
        require_signature(folder, bundle_id, "", OPERATOR)
    with pytest.raises(BundleError, match="not by this server's operator key"):
        require_signature(folder, bundle_id, sign_bundle(new_key(), bundle_id), OPERATOR)
    signature = sign_bundle(KEY, bundle_id)
    assert require_signature(folder, bundle_id, signature, OPERATOR) == signature
    assert sign_folder(folder, KEY) == folder / SIGNATURE
    assert require_signature(folder, bundle_id, "", OPERATOR) == signature


def test_nothing_is_signed_that_is_damaged_or_that_no_device_runs(folder: Path) -> None:
    path, manifest = folder / TRAIN, open_bundle(folder).manifest
    graph = helper.make_graph([helper.make_node("If", [], [])], "graph", [], [])
    path.write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(BundleError, match="was changed or cut short"):
        sign_folder(folder, KEY)
    files = {**manifest.files, TRAIN: describe_file(path)}
    (folder / MANIFEST).write_text(replace(manifest, files=files).to_json())
    with pytest.raises(BundleError, match="has the operator If"):
        sign_folder(folder, KEY)
    assert not (folder / SIGNATURE).exists()


def test_the_operators_command_signs_with_the_key_of_the_state(folder: Path, tmp_path: Path) -> None:
    tls = Tls.of(tmp_path / "state")
    initialize(tls, ["localhost"], renew=False)
    done = CliRunner().invoke(app, ["sign", str(folder), "--state", str(tmp_path / "state")])
    assert done.exit_code == 0, done.output
    require_signature(folder, open_bundle(folder).manifest.bundle_id, "", tls.operator_holder())

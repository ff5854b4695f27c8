"""Signatures of bundles and of the client's archives, made where the operator's key is kept.

Every run but an insecure server's requires a bundle's.
"""

import re
import tempfile
from pathlib import Path

from protos.ravan.v1.releases_pb2 import Release
from ravan.archives import LARGEST_ARCHIVE, sha256_of, tree_of, unpack
from ravan.bundle import Manifest, open_bundle
from ravan.bundle_files import MANIFEST, OPTIONAL
from ravan.errors import BundleError, ReleaseError, SettingsError
from ravan.files import write_atomically
from ravan.rpc.keys import PrivateKey
from ravan.rpc.vouching import MACHINE, SIGNATURE, Archive, is_signed_bundle, sign_archive, sign_bundle
from ravan.runtime.operators import check_graphs
from ravan.versions import VERSION
from server.tls import Tls

_ARCHIVE = re.compile(rf"ravan-edge-({VERSION})-linux-({MACHINE})\.tar\.gz", re.ASCII)
"""The names that make edge-binary gives."""


def sign_folder(folder: Path, key: PrivateKey) -> Path:
    """Signs a bundle whose files are whole and hold nothing that devices do not run; returns the signature's file.

    Raises:
        BundleError: it must not be signed.
    """
    bundle = open_bundle(folder, may_lack=OPTIONAL)
    check_graphs(bundle, [name for name in bundle.manifest.files if bundle.path(name).exists()])
    path = folder / SIGNATURE
    write_atomically(path, f"{sign_bundle(key, bundle.manifest.bundle_id)}\n".encode())
    return path


def signature_of(tls: Tls, folder: object) -> str:
    """The signature of a bundle that is here, as the operator's key is; empty if one of them is not."""
    if not (isinstance(folder, str) and tls.operator_key.is_file()):
        return ""
    try:
        manifest = Manifest.from_json((Path(folder) / MANIFEST).read_bytes())
    except (OSError, BundleError):
        return ""  # the server has it, or says what is wrong with it
    return sign_bundle(tls.operator(), manifest.bundle_id)


def require_signature(folder: Path, bundle_id: str, given: str, operator: str) -> str:
    """The signature given, or else the one in the bundle's folder, if it is by the operator's key.

    Raises:
        BundleError: it is not.
    """
    path = folder / SIGNATURE
    signature = given or (path.read_text("ascii", "replace").strip() if path.is_file() else "")
    if not is_signed_bundle(operator, signature, bundle_id):
        found = "not by this server's operator key" if signature else "missing"
        raise BundleError(
            f"The signature of {folder} is {found}, so that no device would load it: run ravan-server sign {folder} "
            "where operator.key is, and create the run again."
        )
    return signature


def sign_release(path: Path, key: PrivateKey, version: str = "", machine: str = "") -> Release:
    """Signs an archive of the client that devices can unpack; what is not given is read from its name.

    Raises:
        SettingsError: its name tells neither.
        ReleaseError: it is no archive of the client.
    """
    named = _ARCHIVE.fullmatch(path.name)
    version, machine = version or (named[1] if named else ""), machine or (named[2] if named else "")
    if not (version and machine):
        raise SettingsError(f"The name of {path} does not tell its version and machine: give --version and --machine.")
    size = path.stat().st_size
    if size > LARGEST_ARCHIVE:
        raise ReleaseError(f"{path} has {size / 1e6:.0f} MB, {LARGEST_ARCHIVE / 1e6:.0f} are allowed: leave more out.")
    with tempfile.TemporaryDirectory() as folder:
        unpack(path, Path(folder))
        tree = tree_of(Path(folder))
    archive = Archive(machine, version, sha256_of(path), size, tree.sha256, tree.size)
    return archive.to_proto(sign_archive(key, archive))

"""Signatures of bundles: made where the operator's key is kept, required of every run but an insecure server's."""

from pathlib import Path

from ravan.bundle import Manifest, open_bundle
from ravan.bundle_files import MANIFEST, OPTIONAL
from ravan.errors import BundleError
from ravan.files import write_atomically
from ravan.rpc.keys import PrivateKey
from ravan.rpc.vouching import SIGNATURE, is_signed_bundle, sign_bundle
from ravan.runtime.operators import check_graphs
from server.tls import Tls


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

"""What the operator's key vouches for towards devices: an Ed25519 signature of one line of text (issue #6).

The lines begin with words of their own, so that none can pass for another, or for a call (``ravan/rpc/signing.py``):

    ravan-bundle-1 BUNDLE          BUNDLE is the bundle's id, the sha256 of its manifest, which fixes every file
"""

from ravan.rpc.keys import PrivateKey, is_signed_by

SIGNATURE = "manifest.sig"
"""The file of a bundle's folder with its signature, hex."""


def sign_bundle(key: PrivateKey, bundle_id: str) -> str:
    """The signature of a bundle, 128 hexadecimal digits."""
    return key.sign(_bundle(bundle_id).encode()).hex()


def is_signed_bundle(public: str, signature: str, bundle_id: str) -> bool:
    """Whether a bundle's signature is by the key with this public half (hex)."""
    return is_signed_by(public, signature, _bundle(bundle_id))


def _bundle(bundle_id: str) -> str:
    return f"ravan-bundle-1 {bundle_id}"

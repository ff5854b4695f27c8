"""Ed25519 keys (RFC 8032): made where they are used, kept as PEM, known by their public half in hex."""

import hashlib
import re
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from ravan.errors import SettingsError

PrivateKey = Ed25519PrivateKey
PUBLIC = "[0-9a-f]{64}"
"""A public half in hex."""


def new_key() -> PrivateKey:
    """A key from the operating system's random numbers."""
    return Ed25519PrivateKey.generate()


def public_hex(key: PrivateKey) -> str:
    """The public half, 64 hexadecimal digits."""
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def to_pem(key: PrivateKey) -> str:
    """The key as unencrypted PKCS #8; whoever reads it is the device."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")


def from_pem(pem: str) -> PrivateKey:
    """The key of a PEM text.

    Raises:
        ValueError: it holds no Ed25519 key.
    """
    key = load_pem_private_key(pem.encode(), None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("not an Ed25519 key")
    return key


def read_public(path: Path) -> str:
    """The public half (hex) that a file holds.

    Raises:
        SettingsError: it holds none.
    """
    try:
        text = path.read_text("ascii", "replace").strip()
    except OSError as error:
        raise SettingsError(f"{path} can't be read ({error.strerror}): give a file like operator.pub.") from error
    if not re.fullmatch(PUBLIC, text):
        raise SettingsError(f"{path} holds no public key: give a file like operator.pub, 64 hexadecimal digits.")
    return text


def is_signed_by(public: str, signature: str, text: str) -> bool:
    """Whether a signature (hex) of a text is by the key with this public half (hex)."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(bytes.fromhex(signature), text.encode())
    except (InvalidSignature, ValueError):
        return False
    return True


def device_id_of(public: str) -> str:
    """The id of a device that enrolls with this key: 32 hexadecimal digits that no other key leads to."""
    return hashlib.sha256(bytes.fromhex(public)).hexdigest()[:32]

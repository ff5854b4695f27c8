"""Ed25519 keys (RFC 8032): made where they are used, kept as PEM, known by their public half in hex."""

import base64
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from ravan.errors import SettingsError

PUBLIC = "[0-9a-f]{64}"
"""A public half in hex."""
_PKCS8 = bytes.fromhex("302e020100300506032b657004220420")
"""What stands before the 32 bytes of an Ed25519 key in PKCS #8 (RFC 8410, section 7)."""
_PEM = re.compile(r"\s*-----BEGIN PRIVATE KEY-----\s([A-Za-z0-9+/=\s]+)-----END PRIVATE KEY-----\s*")


@dataclass(frozen=True)
class PrivateKey:
    """A key to sign with."""

    _key: SigningKey = field(repr=False)

    def sign(self, text: bytes) -> bytes:
        """The signature, 64 bytes."""
        return self._key.sign(text).signature

    def public(self) -> bytes:
        """The public half, 32 bytes."""
        return bytes(self._key.verify_key)

    def private(self) -> bytes:
        """The private half, 32 bytes."""
        return bytes(self._key)


def new_key() -> PrivateKey:
    """A key from the operating system's random numbers."""
    return PrivateKey(SigningKey.generate())


def public_hex(key: PrivateKey) -> str:
    """The public half, 64 hexadecimal digits."""
    return key.public().hex()


def to_pem(key: PrivateKey) -> str:
    """The key as unencrypted PKCS #8; whoever reads it is the device."""
    text = base64.b64encode(_PKCS8 + key.private()).decode("ascii")
    return f"-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n"


def from_pem(pem: str) -> PrivateKey:
    """The key of a PEM text.

    Raises:
        ValueError: it holds no Ed25519 key.
    """
    found = _PEM.fullmatch(pem)
    data = base64.b64decode("".join(found[1].split()), validate=True) if found else b""
    private = data.removeprefix(_PKCS8)
    if len(data) != len(_PKCS8) + 32 or len(private) != 32:
        raise ValueError("no PEM of an Ed25519 key")
    return PrivateKey(SigningKey(private))


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
        VerifyKey(bytes.fromhex(public)).verify(text.encode(), bytes.fromhex(signature))
    except (BadSignatureError, ValueError):
        return False
    return True


def device_id_of(public: str) -> str:
    """The id of a device that enrolls with this key: 32 hexadecimal digits that no other key leads to."""
    return hashlib.sha256(bytes.fromhex(public)).hexdigest()[:32]

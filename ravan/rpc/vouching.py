"""What the operator's key vouches for towards devices: an Ed25519 signature of one line of text (issue #6).

The lines begin with words of their own, so that none can pass for another, or for a call (``ravan/rpc/signing.py``):

    ravan-bundle-1 BUNDLE          BUNDLE is the bundle's id, the sha256 of its manifest, which fixes every file
    ravan-client-1 MACHINE VERSION SHA256 SIZE TREE UNPACKED          the fields of ``Archive``
"""

import re
from dataclasses import asdict, dataclass

from protos.ravan.v1 import releases_pb2 as pb
from ravan import versions
from ravan.archives import LARGEST_ARCHIVE, LARGEST_UNPACKED
from ravan.errors import ReleaseError
from ravan.rpc.keys import PrivateKey, is_signed_by

SIGNATURE = "manifest.sig"
"""The file of a bundle's folder with its signature, hex."""
MACHINE = "[a-z0-9_]{1,24}"
_SHA256 = "[0-9a-f]{64}"


@dataclass(frozen=True)
class Archive:
    """A version of the client for one kind of machine.

    Attributes:
        machine: as ``platform.machine`` says.
        version: see ``ravan.versions``.
        sha256: of the archive, hex.
        size: of the archive, bytes.
        tree: of the folder that it unpacks to, see ``ravan.archives``.
        unpacked: bytes of that folder's files.

    Raises:
        ReleaseError: there is no such archive.
    """

    machine: str
    version: str
    sha256: str
    size: int
    tree: str
    unpacked: int

    def __post_init__(self) -> None:
        versions.order(self.version)
        texts = ((MACHINE, self.machine), (_SHA256, self.sha256), (_SHA256, self.tree))
        sizes = 0 < self.size <= LARGEST_ARCHIVE and 0 < self.unpacked <= LARGEST_UNPACKED
        if not (sizes and all(re.fullmatch(form, text) for form, text in texts)):
            raise ReleaseError("What is said of the client's archive makes no sense: sign it by ravan-server release.")

    def __str__(self) -> str:
        """The line that is signed."""
        fields = (self.machine, self.version, self.sha256, self.size, self.tree, self.unpacked)
        return " ".join(map(str, ("ravan-client-1", *fields)))

    def to_proto(self, signature: str) -> pb.Release:
        """The message, with the archive's signature."""
        return pb.Release(**asdict(self), signature=signature)

    @classmethod
    def from_proto(cls, release: pb.Release) -> "Archive":
        """Reads what ``to_proto`` made; its signature is not looked at."""
        return cls(release.machine, release.version, release.sha256, release.size, release.tree, release.unpacked)


def sign_bundle(key: PrivateKey, bundle_id: str) -> str:
    """The signature of a bundle, 128 hexadecimal digits."""
    return key.sign(_bundle(bundle_id).encode()).hex()


def is_signed_bundle(public: str, signature: str, bundle_id: str) -> bool:
    """Whether a bundle's signature is by the key with this public half (hex)."""
    return is_signed_by(public, signature, _bundle(bundle_id))


def sign_archive(key: PrivateKey, archive: Archive) -> str:
    """The signature of a client's archive, 128 hexadecimal digits."""
    return key.sign(str(archive).encode()).hex()


def is_signed_archive(public: str, signature: str, archive: Archive) -> bool:
    """Whether an archive's signature is by the key with this public half (hex)."""
    return is_signed_by(public, signature, str(archive))


def _bundle(bundle_id: str) -> str:
    return f"ravan-bundle-1 {bundle_id}"

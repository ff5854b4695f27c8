"""Archives of clients for tests: small programs in the place of the frozen client."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

from protos.ravan.v1.releases_pb2 import Release
from ravan.rpc.keys import PrivateKey
from server.signatures import sign_release

Entry = tuple[tarfile.TarInfo, bytes]


def entry(name: str, data: bytes = b"", mode: int = 0o644, kind: bytes = tarfile.REGTYPE, link: str = "") -> Entry:
    """One of an archive's entries."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.type, info.linkname = len(data), mode, kind, link
    return info, data


def program(text: str = "#!/bin/sh\nexit 0\n") -> Entry:
    """The program that every client's archive holds."""
    return entry("ravan-edge/ravan-edge", text.encode(), 0o755)


SOUND = (
    entry("ravan-edge", kind=tarfile.DIRTYPE, mode=0o755),
    entry("ravan-edge/_internal/libs/lib.so.1", b"library"),
    entry("ravan-edge/_internal/lib.so", kind=tarfile.SYMTYPE, link="libs/lib.so.1"),
)
"""What an archive may hold beside its program."""


def write_archive(path: Path, entries: Iterable[Entry]) -> Path:
    """An archive of these entries."""
    with tarfile.open(path, "w:gz") as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return path


def signed_archive(
    path: Path, key: PrivateKey, version: str, machine: str, text: str = "#!/bin/sh\nexit 0\n"
) -> Release:
    """A sound archive, written and signed."""
    write_archive(path, [*SOUND, program(text)])
    return sign_release(path, key, version, machine)

"""Archives that are the same bytes for the same files."""

import gzip
import io
import tarfile
from pathlib import Path

import deflate

from ravan.files import write_atomically

HARDEST = 12


def pack(folder: Path, archive: Path, time: int) -> None:
    """Writes a folder as tar.gz: sorted, owned by root, every file from ``time`` (Unix)."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        entry.mtime = time
        entry.mode = 0o777 if entry.issym() else 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
        return entry

    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path in [folder, *sorted(folder.rglob("*"))]:
            tar.add(path, path.relative_to(folder.parent), recursive=False, filter=plain)
    write_atomically(archive, bytes(deflate.gzip_compress(data.getvalue(), HARDEST)))


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks what ``pack`` wrote."""
    with gzip.open(archive) as data, tarfile.open(fileobj=data) as tar:
        tar.extractall(folder, filter="tar")

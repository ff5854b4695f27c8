"""Archives of the client (tar.gz): unpacked with suspicion, and known by every file that comes out.

A *tree* is the sha256 of the list of an unpacked folder's files, as JSON: path, kind, and the file's sha256 or the
link's target. It is the same for the archive's maker and for whoever unpacked it, and changes with every file that is
added, changed or taken away, so that a signed tree vouches for what is on disk.
"""

import gzip
import hashlib
import json
import os
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ravan.errors import ReleaseError
from ravan.files import sync_folder

PROGRAM = "ravan-edge"
"""The folder in an archive, and the program in the folder."""
LARGEST_ARCHIVE = 256 << 20  # bytes
LARGEST_UNPACKED = 1 << 30  # bytes
MOST_FILES = 20_000
LONGEST_NAME = 400  # characters
_PIECE = 1 << 20


@dataclass(frozen=True)
class Tree:
    """What an unpacked archive is known by: sha256 of the list of its files, and their bytes."""

    sha256: str
    size: int


def unpack(archive: Path, folder: Path, most: int = LARGEST_UNPACKED) -> None:
    """Unpacks a client's archive into an empty folder, durably: plain files, folders, and links among them.

    Owners, times and special modes of the archive are nobody's business here: a file is executable or it is not.

    Raises:
        ReleaseError: it is no such archive, names what is outside of the folder, or holds over ``most`` bytes.
    """
    links: list[tuple[Path, str]] = []
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for entry, path in _entries(tar):
                out, most = folder / path, most - entry.size
                if most < 0:
                    raise ReleaseError("The client's archive holds more than its signature says: it is not unpacked.")
                if entry.isdir():
                    out.mkdir(parents=True, exist_ok=True)
                elif entry.issym():
                    links.append((out, entry.linkname))
                else:
                    _write(tar, entry, out)
        for out, target in links:  # last, so that nothing is ever written through one
            out.parent.mkdir(parents=True, exist_ok=True)
            out.symlink_to(target)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, FileExistsError, UnicodeError) as error:
        raise ReleaseError(
            f"The client's archive can't be unpacked ({error}): build it by make edge-binary."
        ) from error
    _check_links(folder, [out for out, _ in links])
    program = folder / PROGRAM
    if program.is_symlink() or not (program.is_file() and os.access(program, os.X_OK)):
        raise ReleaseError(f"The archive holds no program {PROGRAM}/{PROGRAM}: build it by make edge-binary.")
    for inside, _, _ in os.walk(folder):
        sync_folder(Path(inside))


def tree_of(folder: Path) -> Tree:
    """What a folder is known by; for files and links alone, as ``unpack`` leaves them.

    Raises:
        ReleaseError: it holds something else.
        OSError: it can't be read.
    """
    listed, size = [], 0
    for path in _inside(folder):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            listed.append([name, "link", os.readlink(path)])
        elif path.is_file():
            kind = "program" if path.stat().st_mode & 0o100 else "file"
            listed.append([name, kind, sha256_of(path)])
            size += path.stat().st_size
        else:
            raise ReleaseError(f"{path} is no plain file: the client in {folder} was changed.")
    return Tree(hashlib.sha256(json.dumps(sorted(listed)).encode()).hexdigest(), size)


def sha256_of(path: Path) -> str:
    """Of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _entries(tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, PurePosixPath]]:
    """What an archive holds, by the paths below its one folder."""
    for count, entry in enumerate(tar, 1):
        path = PurePosixPath(entry.name)
        shown = repr(entry.name[:80])
        if count > MOST_FILES or len(entry.name) > LONGEST_NAME:
            raise ReleaseError(
                "The client's archive has too many files or too long names: build it by make edge-binary."
            )
        if path.is_absolute() or ".." in path.parts or path.parts[:1] != (PROGRAM,):
            raise ReleaseError(f"The client's archive names {shown}, which is outside of {PROGRAM}/: do not use it.")
        if not (entry.isdir() or entry.isreg() or entry.issym()):
            raise ReleaseError(f"The client's archive holds {shown}, neither file nor folder nor link: do not use it.")
        yield entry, PurePosixPath(*path.parts[1:])


def _write(tar: tarfile.TarFile, entry: tarfile.TarInfo, out: Path) -> None:
    """Writes one file, which must be new."""
    out.parent.mkdir(parents=True, exist_ok=True)
    data = tar.extractfile(entry)
    assert data is not None
    mode = 0o755 if entry.mode & 0o100 else 0o644
    with out.open("xb") as file:
        while piece := data.read(_PIECE):
            file.write(piece)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())


def _check_links(folder: Path, links: list[Path]) -> None:
    """Raises ReleaseError if a link leads outside of the folder, by whatever way, or nowhere."""
    root = folder.resolve()
    for link in links:
        try:
            leads_to = link.resolve(strict=True)
        except (OSError, RuntimeError):  # nowhere, or round and round
            leads_to = None
        if leads_to is None or not leads_to.is_relative_to(root):
            raise ReleaseError(f"The client's archive has a link {link.name!r} that leads out of it: do not use it.")


def _inside(folder: Path) -> Iterator[Path]:
    """All below a folder but folders; links are not followed."""
    for parent, folders, files in os.walk(folder, onerror=_raise):
        yield from (Path(parent, name) for name in files)
        yield from (path for name in folders if (path := Path(parent, name)).is_symlink())


def _raise(error: OSError) -> None:
    raise error

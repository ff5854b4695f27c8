"""What went into a binary, by PyInstaller's tables of contents, and whose it is."""

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path, PurePosixPath
from typing import Any

from release.debian import Package

MODULES, FILES = "PYZ-00.toc", "COLLECT-00.toc"
LIBRARIES = ("BINARY", "EXTENSION")
BOOTLOADER = "pyinstaller"
OURS = "ravan-fl"


@dataclass(frozen=True)
class Part:
    """A file that went in.

    Attributes:
        name: its place in the binary's folder, or a module's name.
        source: where it came from, below the root.
        is_library: whether it is a shared library, and so a file in the binary's folder.
    """

    name: str
    source: PurePosixPath
    is_library: bool


@dataclass(frozen=True)
class Owned:
    """A package with the libraries of it that went in; of others but modules went in."""

    package: Distribution | Package
    libraries: tuple[Part, ...]


def parts(notes: Path) -> Iterator[Part]:
    """What went in, by the tables of contents in a folder."""
    for table in (MODULES, FILES):
        for name, source, kind in entries(ast.literal_eval((notes / table).read_text("utf-8"))):
            if source not in ("", "-"):
                yield Part(name, below(source), kind in LIBRARIES)


def entries(table: Sequence[Any]) -> Iterator[tuple[str, str, str]]:
    """The entries of one: it is a tuple of which one member is their list."""
    for member in table:
        if isinstance(member, list):
            yield from member


def owned(sites: Sequence[Path], root: Path, owners: Mapping[str, Package], found: Sequence[Part]) -> list[Owned]:
    """The packages that parts came from, by name: distributions below ``sites``, then Debian's."""
    of: dict[PurePosixPath, Distribution | Package] = {
        below("/" + name): package for name, package in owners.items() if not name.endswith("/")
    }
    every = list(distributions(path=list(map(str, sites))))
    for distribution in every:
        for file in distribution.files or ():
            of[below("/" + Path(str(distribution.locate_file(file))).relative_to(root).as_posix())] = distribution
    holders: dict[int, tuple[Distribution | Package, list[Part]]] = {}
    for distribution in every:
        if distribution.name.lower() == BOOTLOADER:  # the executable is its, with the client's modules behind it
            holders[id(distribution)] = (distribution, [])
    for part in found:
        holder = of.get(part.source)
        if holder is not None:
            holders.setdefault(id(holder), (holder, []))[1].append(part)
    known = [Owned(holder, tuple(p for p in mine if p.is_library)) for holder, mine in holders.values()]
    return sorted(known, key=lambda each: (isinstance(each.package, Package), each.package.name.lower()))


def below(source: str) -> PurePosixPath:
    """A path below the root, where /lib is /usr/lib."""
    path = PurePosixPath(source.removeprefix("/"))
    return PurePosixPath("usr") / path if path.parts and path.parts[0] in ("bin", "lib", "sbin") else path


def licence_files(package: Distribution | Package, root: Path) -> Iterator[Path]:
    """The files that say under what terms a package is given on."""
    if isinstance(package, Package):
        copyright_file = root / "usr/share/doc" / package.name / "copyright"
        if copyright_file.is_file():
            yield copyright_file
        return
    for file in package.files or ():
        name = file.name.lower()
        if name.startswith(("licen", "copying", "notice", "thirdparty", "copyright")) and not name.endswith(".py"):
            yield Path(str(package.locate_file(file)))

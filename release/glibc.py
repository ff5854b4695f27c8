"""The oldest glibc that programs run with, by the versions of its symbols that they name.

usage: python -m release.glibc FOLDER
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection

PREFIX = "GLIBC_"
MAGIC = b"\x7fELF"


@dataclass(frozen=True)
class Needs:
    """What the programs and libraries below a folder need of the system.

    Attributes:
        glibc: the oldest version that has all symbols.
        because: the files that name a symbol of just that version.
        libraries: shared libraries that are not in the folder.
    """

    glibc: tuple[int, ...]
    because: tuple[str, ...]
    libraries: tuple[str, ...]

    @property
    def floor(self) -> str:
        """The version in words."""
        return ".".join(map(str, self.glibc))


def needs(folder: Path) -> Needs:
    """Looks at every ELF file below a folder."""
    versions: dict[str, tuple[int, ...]] = {}
    wanted: set[str] = set()
    for path in programs(folder):
        with path.open("rb") as file:
            elf = ELFFile(file)
            versions[path.relative_to(folder).as_posix()] = max(versions_of(elf), default=(0,))
            wanted |= set(libraries_of(elf))
    floor = max(versions.values(), default=(0,))
    here = {path.name for path in folder.rglob("*")}
    because = sorted(name for name, version in versions.items() if version == floor)
    return Needs(floor, tuple(because), tuple(sorted(wanted - here)))


def programs(folder: Path) -> Iterator[Path]:
    """The ELF files below a folder."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(len(MAGIC)) == MAGIC:
                    yield path


def versions_of(elf: ELFFile) -> Iterator[tuple[int, ...]]:
    """The versions of glibc whose symbols a file names."""
    for section in elf.iter_sections():
        if isinstance(section, GNUVerNeedSection):
            for _, entries in section.iter_versions():
                for entry in entries:
                    number = entry.name.removeprefix(PREFIX)
                    if number != entry.name and number[0].isdigit():
                        yield tuple(map(int, number.split(".")))


def libraries_of(elf: ELFFile) -> Iterator[str]:
    """The shared libraries that a file names."""
    for section in elf.iter_sections():
        if isinstance(section, DynamicSection):
            yield from (str(tag.needed) for tag in section.iter_tags("DT_NEEDED"))  # type: ignore[attr-defined]


def main() -> int:
    """Prints what a folder needs."""
    try:
        found = needs(Path(sys.argv[1]))
    except ELFError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    print(f"glibc {found.floor}, for {', '.join(found.because)}; not in the folder: {', '.join(found.libraries)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

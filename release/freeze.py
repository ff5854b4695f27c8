"""Freezes the edge client with PyInstaller, in a Debian of the machine's kind that has nothing else in it."""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ravan.errors import EnvironmentProblem
from ravan.processes import last_words
from release.debian import Apt, Package, unpack
from release.machines import Machine
from release.roots import Root, emulator_for

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parent
NEEDS = ("bash", "binutils", "coreutils", "dash", "libc-bin", "libstdc++6")
"""What PyInstaller and the binary's libraries need, beside Python."""
BUILD, SITE, TOOLS = Path("build"), Path("build/site"), Path("build/tools")
NOT_STRIPPED = ("libgfortran", "libquadmath", "libscipy_openblas")
"""numpy's, whose segments strip puts where the loader does not find them."""
SEED = "1"  # of hashes, for sets are written to files in their order


@dataclass(frozen=True)
class Frozen:
    """The client as PyInstaller made it, and where each part came from.

    Attributes:
        root: where it was made.
        owners: Debian's packages, by the paths of their files below the root.
    """

    root: Root
    owners: Mapping[str, Package]

    @property
    def folder(self) -> Path:
        """The client."""
        return self.root.folder / BUILD / "dist" / "ravan-edge"

    @property
    def notes(self) -> Path:
        """PyInstaller's tables of contents."""
        return self.root.folder / BUILD / "work" / "edge"

    @property
    def sites(self) -> tuple[Path, Path]:
        """Folders of installed distributions: what is frozen, and what freezes it."""
        return self.root.folder / SITE, self.root.folder / TOOLS


def freeze(machine: Machine, work: Path, variables: Mapping[str, str]) -> Frozen:
    """Makes the root and the client in it, anew; ``variables`` are seen by PyInstaller.

    Raises:
        EnvironmentProblem: a package can't be fetched, or a step fails.
    """
    apt = Apt(work / "apt", machine.debian)
    apt.update()
    python = ".".join(apt.version("python3").split(".")[:2])
    root = Root(work / "root", machine, emulator_for(machine, work.parent / "emulator"))
    shutil.rmtree(root.folder, ignore_errors=True)
    owners = unpack(apt.with_needs([f"python{python}", f"libpython{python}", *NEEDS]), root.folder)
    install(machine, python, root.folder / SITE, [f"{SOURCES}[edge]"])
    install(machine, python, root.folder / TOOLS, ["pyinstaller"])
    shutil.copytree(HERE, root.folder / BUILD / "release", ignore=shutil.ignore_patterns("__pycache__"))
    root.run(["ldconfig"])
    paths = f"/{SITE}:/{TOOLS}"
    command = [f"python{python}", "-m", "PyInstaller", "--noconfirm", "--log-level", "ERROR"]
    command += ["--distpath", f"/{BUILD}/dist", "--workpath", f"/{BUILD}/work", f"/{BUILD}/release/edge.spec"]
    root.run(command, {"PYTHONPATH": paths, "PYTHONHASHSEED": SEED, **variables})
    frozen = Frozen(root, owners)
    root.run(["strip", "--strip-unneeded", *inside(root, libraries(frozen.folder))])
    return frozen


def install(machine: Machine, python: str, target: Path, wanted: Sequence[str]) -> None:
    """Installs the machine's wheels of distributions and all that they need, in the versions of constraints.txt.

    Raises:
        EnvironmentProblem: pip can't.
    """
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", str(target)]
    command += ["--only-binary", ":all:", "--implementation", "cp", "--python-version", python]
    command += [option for platform in machine.wheels for option in ("--platform", platform)]
    command += ["--constraint", str(SOURCES / "constraints.txt"), *wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EnvironmentProblem(f"pip can't install {', '.join(wanted)} for {machine.name} ({last_words(done)}).")


def libraries(folder: Path) -> Iterator[Path]:
    """The shared libraries that may lose their symbols."""
    for path in sorted(folder.rglob("*.so*")):
        if path.is_file() and not path.is_symlink() and not path.name.startswith(NOT_STRIPPED):
            yield path


def inside(root: Root, paths: Iterator[Path]) -> list[Path]:
    """Paths as they are in a root."""
    return [Path("/") / path.relative_to(root.folder) for path in paths]

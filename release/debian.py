"""Debian packages of any architecture, fetched and unpacked in a folder without touching the machine's own."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ravan.errors import EnvironmentProblem
from ravan.processes import last_words

CONFIGURATION = """\
Dir::State "{tree}/state";
Dir::State::status "{tree}/status";
Dir::Cache "{tree}/cache";
Dir::Log "{tree}/log";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "";
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""


@dataclass(frozen=True)
class Package:
    """A package's file.

    Attributes:
        name: Debian's.
        version: Debian's.
        architecture: Debian's name of it.
        file: the .deb.
    """

    name: str
    version: str
    architecture: str
    file: Path


class Apt:
    """An apt of its own, which knows of no installed package and reads the machine's own sources.

    Args:
        tree: its folder.
        architecture: of the packages, as Debian names it.
    """

    def __init__(self, tree: Path, architecture: str) -> None:
        self._tree, self._architecture = tree, architecture
        self._archives = tree / "cache" / "archives"

    def update(self) -> None:
        """Reads what there is.

        Raises:
            EnvironmentProblem: no apt, or no sources for the architecture.
        """
        for folder in ("state/lists/partial", "cache/archives/partial", "log"):
            (self._tree / folder).mkdir(parents=True, exist_ok=True)
        (self._tree / "status").touch()
        written = CONFIGURATION.format(tree=self._tree.resolve(), architecture=self._architecture)
        (self._tree / "apt.conf").write_text(written, "utf-8")
        self._run("apt-get", "update", "--quiet=2")

    def version(self, package: str) -> str:
        """The version that would be installed.

        Raises:
            EnvironmentProblem: there is no such package.
        """
        shown = self._run("apt-cache", "show", "--no-all-versions", package)
        found = re.search(r"^Version: (\S+)$", shown, re.MULTILINE)
        if found is None:
            raise EnvironmentProblem(f"apt has no {package} for {self._architecture}: look at /etc/apt/sources.list.d.")
        return found[1]

    def with_needs(self, packages: Sequence[str]) -> list[Package]:
        """Fetches packages and all that they depend on."""
        shutil.rmtree(self._archives, ignore_errors=True)
        (self._archives / "partial").mkdir(parents=True)
        self._run("apt-get", "install", "--yes", "--quiet=2", "--download-only", *packages)
        return sorted(map(described, self._archives.glob("*.deb")), key=lambda package: package.name)

    def alone(self, packages: Sequence[str]) -> list[Package]:
        """Fetches packages and nothing else."""
        folder = self._tree / "alone"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self._run("apt-get", "download", "--quiet=2", *packages, cwd=folder)
        return sorted(map(described, folder.glob("*.deb")), key=lambda package: package.name)

    def _run(self, *command: str, cwd: Path | None = None) -> str:
        environment = os.environ | {"APT_CONFIG": str(self._tree.resolve() / "apt.conf"), "LC_ALL": "C"}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env=environment, cwd=cwd or self._tree
            )
        except FileNotFoundError as error:
            raise EnvironmentProblem(f"{command[0]} is not here: binaries are built on Debian.") from error
        if done.returncode:
            raise EnvironmentProblem(
                f"apt can't fetch {self._architecture} packages ({last_words(done)}): look at the machine's sources."
            )
        return done.stdout


def described(file: Path) -> Package:
    """What a .deb says of itself."""
    command = ["dpkg-deb", "--show", "--showformat", "${Package} ${Version} ${Architecture}", str(file)]
    name, version, architecture = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return Package(name, version, architecture, file)


def unpack(packages: Sequence[Package], root: Path) -> dict[str, Package]:
    """Unpacks packages into a root file system; returns whose each file is, by its path below the root."""
    for folder in ("bin", "lib", "sbin"):
        (root / "usr" / folder).mkdir(parents=True, exist_ok=True)
        (root / folder).symlink_to(f"usr/{folder}")
    owners: dict[str, Package] = {}
    for package in packages:
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package.file)], stdout=subprocess.PIPE) as archive:
            command = ["tar", "-x", "-v", "-C", str(root), "--keep-directory-symlink", "--no-same-owner"]
            done = subprocess.run(command, stdin=archive.stdout, capture_output=True, text=True, check=True)
        owners |= dict.fromkeys((name.removeprefix("./") for name in done.stdout.splitlines()), package)
    return owners

"""A root file system with glibc, libz and the binary, and nothing else: the least that a device has."""

import shutil
from pathlib import Path

from release.debian import Apt, unpack
from release.machines import Machine
from release.packing import unpack as unpack_archive
from release.roots import Root, emulator_for

PACKAGES = ("libc6", "zlib1g")
PROGRAM = Path("/opt/ravan-edge/ravan-edge")


def bare_root(machine: Machine, work: Path, archive: Path) -> Root:
    """Makes it anew.

    Raises:
        EnvironmentProblem: the packages can't be fetched.
    """
    apt = Apt(work / "apt", machine.debian)
    apt.update()
    root = Root(work / "bare", machine, emulator_for(machine, work.parent / "emulator"))
    shutil.rmtree(root.folder, ignore_errors=True)
    unpack(apt.alone(PACKAGES), root.folder)
    unpack_archive(archive, root.folder / "opt")
    return root

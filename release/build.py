"""Builds ravan-edge as a folder that needs no Python: its archive, bill of materials and checksums, in dist/.

usage: python -m release.build MACHINE, as make edge-binary does.

SOURCE_DATE_EPOCH is the time of all files, the last commit's by default: the same sources, wheels and packages give the
same bytes.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from ravan import __version__
from ravan.errors import EnvironmentProblem, RavanError
from ravan.files import write_atomically
from release.freeze import SOURCES, Frozen, freeze
from release.glibc import needs
from release.machines import MACHINES, Machine
from release.materials import bill_of_materials
from release.packing import pack
from release.parts import licence_files, owned, parts
from release.roots import require_namespaces

HERE = Path(__file__).resolve().parent
OUT, WORK = SOURCES / "dist", SOURCES / "build" / "edge"
LARGEST = 50_000_000
CHECKSUMS = "SHA256SUMS"
BESIDE = (HERE / "ravan-edge.service", HERE / "INSTALL.md", SOURCES / "LICENSE")
EPOCH = "SOURCE_DATE_EPOCH"


def main() -> int:
    """Builds for the machine of the command line."""
    try:
        machine = MACHINES[sys.argv[1]]
        require_namespaces(machine)
        print(build(machine, OUT, WORK / machine.name))
    except RavanError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return problem.exit_code
    return 0


def archive_name(machine: Machine) -> str:
    """Of a machine's archive, without its ending."""
    return f"ravan-edge-{__version__}-linux-{machine.name}"


def build(machine: Machine, out: Path, work: Path) -> str:
    """Builds one machine's binary; returns what came out, in words.

    Raises:
        EnvironmentProblem: a step fails, or the archive is too large.
    """
    work.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    time = source_time()
    variables = {EPOCH: str(time), "PYINSTALLER_ZLIB_COMPRESSION_LEVEL": "0"}  # the archive does it better
    frozen = freeze(machine, work, variables)
    bill = furnish(frozen, time)
    archive = out / f"{archive_name(machine)}.tar.gz"
    pack(frozen.folder, archive, time)
    write_atomically(out / f"{archive_name(machine)}.cdx.json", bill.encode())
    write_atomically(out / CHECKSUMS, checksums(out).encode())
    size = archive.stat().st_size
    if size > LARGEST:
        raise EnvironmentProblem(f"{archive} has {size / 1e6:.1f} MB, {LARGEST / 1e6:.0f} are allowed: leave more out.")
    return f"{archive}: {size / 1e6:.1f} MB, needs glibc {needs(frozen.folder).floor}"


def furnish(frozen: Frozen, time: int) -> str:
    """Puts the unit, the install page and everybody's licences into the folder; returns the bill of materials."""
    root = frozen.root.folder
    known = owned(frozen.sites, root, frozen.owners, list(parts(frozen.notes)))
    for file in BESIDE:
        shutil.copy(file, frozen.folder)
    for each in known:
        for file in licence_files(each.package, root):
            place = frozen.folder / "licenses" / each.package.name
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place / file.name)
    return bill_of_materials(known, frozen.folder / "_internal", time)


def checksums(out: Path) -> str:
    """Of all that is there to be handed out, as sha256sum -c reads them."""
    files = sorted(path for path in out.glob("ravan-edge-*") if path.is_file())
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)


def source_time() -> int:
    """What SOURCE_DATE_EPOCH says, or when the last commit was made."""
    if given := os.environ.get(EPOCH):
        return int(given)
    command = ["git", "-C", str(SOURCES), "log", "-1", "--format=%ct"]
    try:
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    except (OSError, subprocess.CalledProcessError):
        raise EnvironmentProblem(f"The sources have no history: set {EPOCH} to the time of the release.") from None


if __name__ == "__main__":
    sys.exit(main())

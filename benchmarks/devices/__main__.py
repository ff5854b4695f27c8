"""Measures the binaries in dist/ and writes DEVICES.md.

usage: python -m benchmarks.devices, in the repository; make bench-devices builds and tries the binaries before.

Sizes and needs are those of every binary, starting times and memory those of this machine's own kind: what is emulated
has no speed worth telling. Memory is that of a device with a real model; see ``WORK``. What is measured is kept in
benchmarks/results/devices.json.
"""

import json
import os
import platform
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.accuracy import VARIANTS, export
from benchmarks.data import write_documents
from benchmarks.devices.figures import Memory, Results, Size, save
from benchmarks.devices.memory import memory
from benchmarks.devices.page import section
from benchmarks.devices.starts import starts
from benchmarks.machine import this_machine
from benchmarks.report import write_section
from demo.data import newsgroups
from ravan.bundle import Precision
from ravan.errors import EnvironmentProblem
from release.build import OUT, WORK, archive_name
from release.glibc import needs
from release.machines import MACHINES, Machine
from release.packing import unpack

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS, PAGE = ROOT / "benchmarks/results/devices.json", ROOT / "DEVICES.md"
DOCUMENTS = 200
TRAINED = "all-MiniLM-L6-v2 with 4 heads of rank 48 and int8 products, 16 texts of up to 96 tokens a step"


def main() -> int:
    """Measures what there is."""
    here, load = this_machine(), os.getloadavg()[0]
    found = [machine for machine in MACHINES.values() if archive(machine).exists()]
    if platform.machine() not in [machine.name for machine in found]:
        raise EnvironmentProblem("There is no binary for this machine in dist: run make edge-binary.")
    with tempfile.TemporaryDirectory(prefix="ravan-devices-") as folder:
        scratch = Path(folder)
        sizes = tuple(size(machine, scratch / machine.name) for machine in found)
        program = scratch / platform.machine() / "ravan-edge" / "ravan-edge"
        results = Results(
            date=datetime.now(UTC).date().isoformat(),
            machine=f"{here.cpu}, {here.cores} cores, {here.memory_gib} GiB, {here.system}",
            load=round(load, 2),
            sizes=sizes,
            starts=starts(program),
            memory=tuple(held(program, scratch)),
            work=TRAINED,
        )
    save(RESULTS, results)
    write_section(PAGE, "devices", section(results))
    print(section(results))
    return 0


def archive(machine: Machine) -> Path:
    """A machine's binary."""
    return OUT / f"{archive_name(machine)}.tar.gz"


def size(machine: Machine, folder: Path) -> Size:
    """Of a machine's binary, which is unpacked into a folder; what its test saw is beside its build."""
    unpack(archive(machine), folder)
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    found, seen = needs(folder / "ravan-edge"), WORK / machine.name / "figures.json"
    differences = json.loads(seen.read_text("utf-8")) if seen.exists() else {}
    return Size(
        machine=machine.name,
        archive=archive(machine).stat().st_size,
        folder=sum(path.stat().st_size for path in files),
        files=len(files),
        glibc=found.floor,
        because=found.because,
        libraries=found.libraries,
        differences=differences,
    )


def held(program: Path, scratch: Path) -> list[Memory]:
    """The client's memory with a real model."""
    variant = next(each for each in VARIANTS if each.precision is Precision.INT8 and not each.top_layers)
    (scratch / "export").mkdir()
    bundle = export(variant, 0, newsgroups(), scratch / "export")
    return list(memory(program, bundle.folder, write_documents(scratch / "documents.jsonl", DOCUMENTS), scratch))


if __name__ == "__main__":
    sys.exit(main())

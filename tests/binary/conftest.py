"""The binary of one kind of machine, in a root file system that has glibc and libz alone."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ravan.errors import EnvironmentProblem
from release.bare import PROGRAM, bare_root
from release.build import OUT, WORK, archive_name
from release.machines import MACHINES
from release.roots import Root, require_namespaces
from tests.e2e.processes import Fleet


@dataclass(frozen=True)
class Binary:
    """A binary, unpacked.

    Attributes:
        archive: what it was unpacked from.
        root: the root file system.
    """

    archive: Path
    root: Root

    @property
    def folder(self) -> Path:
        """Of the binary, seen from outside."""
        return self.root.folder / PROGRAM.parent.relative_to("/")

    def program(self, *folders: Path) -> tuple[str, ...]:
        """The command that is ravan-edge; ``folders`` are seen by it."""
        return tuple(self.root.command([PROGRAM], folders))


@pytest.fixture(scope="session")
def binary(request: pytest.FixtureRequest) -> Binary:
    """Of the machine that ``--machine`` names; skips where programs can't be run in a root."""
    machine = MACHINES[request.config.getoption("machine")]
    try:
        require_namespaces(machine)
    except EnvironmentProblem as problem:
        pytest.skip(str(problem))
    archive = OUT / f"{archive_name(machine)}.tar.gz"
    if not archive.exists():
        pytest.fail(f"{archive} does not exist: run make edge-binary")
    return Binary(archive, bare_root(machine, WORK / machine.name, archive))


@pytest.fixture
def fleet(tmp_path: Path, binary: Binary, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """A server on this machine, and devices that run the binary in its root."""
    for name, value in binary.root.environment({}).items():
        if name != "PATH":
            monkeypatch.setenv(name, value)
    running = Fleet(tmp_path, secure=True, program=binary.program(tmp_path))
    made = running.run("ravan-server", "init")
    assert made.returncode == 0, made.stderr
    yield running
    running.end()


@pytest.fixture(scope="session")
def note(binary: Binary) -> Iterator[Callable[[str, float], None]]:
    """Keeps a figure beside the machine's build, where benchmarks.devices finds it."""
    figures: dict[str, float] = {}
    yield figures.__setitem__
    path = WORK / binary.root.machine.name / "figures.json"
    path.write_text(json.dumps(figures, indent=2) + "\n")

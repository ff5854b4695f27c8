"""Root file systems, and commands in them: of this machine's kind, or of another kind through an emulator.

A command runs in a user and mount namespace of its own (release/inside.sh): no rights are needed, and the machine stays
as it is.
"""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ravan.errors import EnvironmentProblem
from ravan.processes import last_words
from release.debian import Apt
from release.machines import Machine, this_machine

HERE = Path(__file__).resolve().parent
EMULATOR = "qemu-user-static"
CPU = "cortex-a76"  # as cpuinfo.aarch64 says: a Raspberry Pi 5's


@dataclass(frozen=True)
class Root:
    """A root file system.

    Attributes:
        folder: it.
        machine: whose programs are in it.
        emulator: runs them, None if this machine can.
    """

    folder: Path
    machine: Machine
    emulator: Path | None = None

    def command(self, command: Sequence[str | Path], folders: Sequence[Path] = ()) -> list[str]:
        """A command of this machine that runs one in the root; ``folders`` are seen inside by their own paths."""
        cpuinfo = HERE / f"cpuinfo.{self.machine.name}" if self.emulator else ""
        given = [self.folder.resolve(), self.emulator or "", cpuinfo, *(folder.resolve() for folder in folders)]
        return [*NAMESPACE, "sh", str(HERE / "inside.sh"), *map(str, given), "--", *map(str, command)]

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        """What the command needs of its environment, beside some variables."""
        return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/", "QEMU_CPU": CPU, "LC_ALL": "C.UTF-8", **variables}

    def run(self, command: Sequence[str | Path], variables: Mapping[str, str] | None = None) -> str:
        """Runs a command in the root to its end, and gives what it prints.

        Raises:
            EnvironmentProblem: it failed; its last words are in the message.
        """
        environment = self.environment(variables or {})
        done = subprocess.run(self.command(command), capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise EnvironmentProblem(f"{command[0]} failed in {self.folder}: {last_words(done)}.")
        return done.stdout


NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "--propagation", "private")


def require_namespaces(machine: Machine) -> None:
    """Refuses what this machine does not allow, before anything is fetched.

    Raises:
        EnvironmentProblem: no user namespaces, or none that may have emulators of their own.
    """
    if shutil.which(NAMESPACE[0]) is None:
        raise EnvironmentProblem("unshare is not here: install util-linux.")
    look = ["true"] if machine.is_here else ["mount", "-t", "binfmt_misc", "binfmt_misc", "/proc/sys/fs/binfmt_misc"]
    done = subprocess.run([*NAMESPACE, *look], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    if machine.is_here:
        advice = "allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, and on Ubuntu "
        advice += "kernel.apparmor_restrict_unprivileged_userns=0)"
    else:
        advice = "emulation needs user namespaces with a binfmt_misc of their own, Linux 6.7 or newer"
    raise EnvironmentProblem(f"This machine does not allow it ({last_words(done)}): {advice}.")


def emulator_for(machine: Machine, work: Path) -> Path | None:
    """The program that runs another machine's programs here, fetched into a folder; None if none is needed.

    Raises:
        EnvironmentProblem: there is none.
    """
    if machine.is_here:
        return None
    if not (HERE / f"cpuinfo.{machine.name}").exists():
        raise EnvironmentProblem(f"{machine.name} is not emulated: build its binary on such a machine.")
    program = work / "usr" / "bin" / f"qemu-{machine.name}-static"
    if not program.exists():
        apt = Apt(work / "apt", this_machine().debian)
        apt.update()
        (package,) = apt.alone([EMULATOR])
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package.file)], stdout=subprocess.PIPE) as archive:
            wanted = f"./{program.relative_to(work)}"
            subprocess.run(["tar", "-x", "-C", str(work), wanted], stdin=archive.stdout, check=True)
        package.file.unlink()
    return program.resolve()

"""The kinds of machine that there are binaries for."""

import platform
from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """A kind of machine.

    Attributes:
        name: as ``uname -m`` says it.
        debian: Debian's name for it.
        wheels: the newest platform of wheels that devices are sure to have, and the older ones.
    """

    name: str
    debian: str

    @property
    def wheels(self) -> tuple[str, ...]:
        """Platforms of wheels, the newest first; the newest of them is older than what Python itself needs."""
        return *(f"manylinux_2_{minor}_{self.name}" for minor in range(35, 16, -1)), f"manylinux2014_{self.name}"

    @property
    def is_here(self) -> bool:
        """Whether this machine runs its programs without an emulator."""
        return self.name == platform.machine()


MACHINES = {machine.name: machine for machine in (Machine("x86_64", "amd64"), Machine("aarch64", "arm64"))}


def this_machine() -> Machine:
    """The machine that this runs on."""
    return MACHINES[platform.machine()]

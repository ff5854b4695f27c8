"""Where an operator finds the Control service: a socket only this user can reach, or an address that speaks TLS."""

from dataclasses import dataclass
from pathlib import Path

from ravan.errors import EnvironmentProblem
from server.tls import Tls

LONGEST_SOCKET = 100  # bytes; the system's limit for a Unix socket's path is 108
SOCKET = "unix:"


@dataclass(frozen=True)
class ControlAddress:
    """Where the Control service is, and the folder with the operator's key for one that is no socket."""

    target: str
    tls: Tls

    @property
    def is_socket(self) -> bool:
        """Whether the file's mode says who may call, so that no key must."""
        return self.target.startswith(SOCKET)


def control_address(folder: Path, control: str) -> ControlAddress:
    """Where the Control service listens: as set, or a socket that only this user can reach.

    Raises:
        EnvironmentProblem: the socket's path is too long.
    """
    tls = Tls.of(folder)
    if control:
        return ControlAddress(control, tls)
    path = (folder / "control.sock").resolve()
    if len(str(path)) > LONGEST_SOCKET:
        raise EnvironmentProblem(
            f"{path} is too long for a socket: set --control to a shorter one, such as unix:/run/user/1000/ravan.sock."
        )
    return ControlAddress(f"{SOCKET}{path}", tls)

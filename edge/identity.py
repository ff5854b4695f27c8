"""What a device is known by: its key, its id, and the server that knows it."""

import hashlib
import json
import re
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path

from ravan.errors import EnvironmentProblem
from ravan.files import sync_folder, write_atomically
from ravan.rpc.keys import PrivateKey, device_id_of, from_pem, new_key, public_hex, to_pem

SECRET = 0o600
ENROLLED, ENROLLING, ROTATING = ".json", ".enrolling", ".rotating"
"""What a device uses; what a server may know already, if only its answer was lost."""
KEPT = ("name", "server", "ca", "device_id", "made_at", "operator")


@dataclass(frozen=True)
class Identity:
    """One device at one server.

    Attributes:
        name: under which it is kept here; empty for the one device of a home.
        server: host:port.
        ca: the authorities it trusts, PEM; None for public ones.
        device_id: 32 hexadecimal digits.
        key: never leaves this machine.
        made_at: when the key was made, Unix time.
        operator: public key, hex, of the operator, whose bundles it loads; empty until the server or the owner tells.
    """

    name: str
    server: str
    ca: str | None
    device_id: str
    key: PrivateKey = field(repr=False)
    made_at: float
    operator: str

    @classmethod
    def new(cls, name: str, server: str, ca: str | None, now: float, operator: str = "") -> "Identity":
        """One with a key of its own, to enroll with."""
        key = new_key()
        return cls(name, server, ca, device_id_of(public_hex(key)), key, now, operator)

    def rotated(self, now: float) -> "Identity":
        """The same device with a new key."""
        return replace(self, key=new_key(), made_at=now)

    @property
    def public_key(self) -> str:
        """The key's public half, hex."""
        return public_hex(self.key)


class Identities:
    """The identities of a home, a file for each that only its user can read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, name: str, step: str = "") -> Path:
        """The file of a device; names that look alike on disk stay apart."""
        distinct = hashlib.sha256(name.encode()).hexdigest()[:8]
        return self._folder / f"{re.sub(r'[^A-Za-z0-9-]', '_', name)[:40]}-{distinct}{step}"

    def names(self) -> list[str]:
        """Of all devices that are enrolled, or in the middle of enrolling.

        Raises:
            EnvironmentProblem: a file that should hold an identity does not.
        """
        found = set()
        for path in sorted(self._folder.glob("*")):
            if path.suffix in (ENROLLED, ENROLLING):
                found.add(_read(path).name)
        return sorted(found)

    def get(self, name: str, step: str = ENROLLED) -> Identity | None:
        """The identity of a device, if it has one.

        Raises:
            EnvironmentProblem: others can read the file, or it holds no identity.
        """
        path = self.path(name, step)
        return _read(path) if path.exists() else None

    def keep(self, identity: Identity, step: str) -> None:
        """Writes an identity, durably, before the server hears of it."""
        fields = {name: getattr(identity, name) for name in KEPT}
        text = json.dumps({**fields, "key": to_pem(identity.key)}, indent=1)
        write_atomically(self.path(identity.name, step), text.encode(), SECRET)

    def settle(self, identity: Identity, step: str) -> None:
        """Uses from now on what the server has agreed to; the old key is gone."""
        self.path(identity.name, step).rename(self.path(identity.name, ENROLLED))
        sync_folder(self._folder)

    def files(self, name: str) -> list[Path]:
        """All that is kept of a device."""
        return sorted(self._folder.glob(f"{self.path(name).name}*"))

    def drop(self, identity: Identity, step: str) -> None:
        """Forgets what the server did not agree to."""
        self.path(identity.name, step).unlink(missing_ok=True)


def _read(path: Path) -> Identity:
    """The identity in a file.

    Raises:
        EnvironmentProblem: others can read it, or it holds none.
    """
    mode, text = path.stat().st_mode, path.read_text("utf-8")
    if stat.S_IMODE(mode) & 0o077:
        raise EnvironmentProblem(f"Others can read the key in {path}: enroll again, and let nobody else in there.")
    try:
        fields = json.loads(text)
        return Identity(**{**fields, "key": from_pem(fields["key"])})
    except (ValueError, KeyError, TypeError) as error:
        raise EnvironmentProblem(f"{path} holds no identity ({error}): enroll this device again.") from error

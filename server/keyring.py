"""Who may call: tokens, device keys and used nonces, as a part of the server's state."""

from collections.abc import Sequence
from typing import Protocol

from server.records import Holder, Nonce


class Keyring(Protocol):
    """Every method is one transaction, durable when it returns. Tokens are known by their sha256 alone."""

    def add_tokens(self, hashes: Sequence[str], now: float, expires_at: float) -> None:
        """Adds tokens, and forgets those that expired long ago."""

    def enroll(self, token_hash: str, holder: Holder) -> None:
        """Uses a token up and adds the device; does nothing if this very device used it.

        Raises:
            WrongToken: there is no such token.
            UsedToken: another key used it.
            ExpiredToken: it is too old.
            Revoked, Conflict: a device of this id was revoked, or has another key by now.
        """

    def holder(self, public_key: str) -> Holder | None:
        """The device with this key, revoked ones included."""
        ...

    def holders(self) -> list[Holder]:
        """All enrolled devices in the order of enrolling."""
        ...

    def rotate(self, device_id: str, public_key: str) -> None:
        """Replaces a device's key; does nothing if it has this one.

        Raises:
            Conflict: another device has this key.
            Revoked: the device is not enrolled, or not any more.
        """

    def revoke(self, device_id: str, now: float) -> None:
        """Ends a device's rights; its parts in a collecting round fail, updates included."""

    def leave(self, device_id: str, now: float) -> int:
        """The same by the wish of its owner; returns how many of its updates are counted already, and stay so."""
        ...

    def remember(self, nonces: Sequence[Nonce], now: float) -> list[bool]:
        """Keeps nonces and forgets expired ones; says of each whether it is new."""
        ...

    def remembers(self, nonce: Nonce) -> bool:
        """Whether a nonce was used."""
        ...

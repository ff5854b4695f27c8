"""Who may make which calls: enrolled devices those of devices, the operator's key those of the operator."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from server.errors import NotOperator, Revoked, UnknownDevice
from server.storage import Storage

ENROLL = "/ravan.v1.Enrollment/Enroll"


@dataclass(frozen=True)
class Caller:
    """Who made a call: a predicate of the messages that are the caller's own, and whether its key is known here."""

    owns: Callable[[Any], bool]
    is_known: bool = True


Identify = Callable[[str, str], Awaitable[Caller]]
"""From a method and a public key to the caller, or to a refusal."""


def devices(storage: Storage) -> Identify:
    """Lets enrolled devices in, each for itself alone; and whoever has a token, to enroll."""

    async def identify(method: str, key: str) -> Caller:
        holder = await storage.call(storage.state.holder, key)
        if holder is not None and holder.revoked_at is not None:
            how = "has left" if holder.left_at is not None else "was revoked by the operator"
            raise Revoked(f"This device {how}: ask for a new token to enroll again.")
        if method == ENROLL:
            return Caller(lambda message: bool(message.public_key == key), is_known=False)
        if holder is None:
            raise UnknownDevice("No device is enrolled with this key: ask the operator for a token and enroll.")
        return Caller(lambda message: _speaks_for(message) == holder.device_id)

    return identify


def operator(public_key: str) -> Identify:
    """Lets the holder of the operator's key in."""

    async def identify(_: str, key: str) -> Caller:
        if key != public_key:
            raise NotOperator("This key is not the operator's: use the operator.key that ravan-server init made.")
        return Caller(lambda _: True)

    return identify


def _speaks_for(message: Any) -> str:
    """The device that a message, or the header it brings, names as its sender."""
    return str(getattr(getattr(message, "header", message), "device_id", ""))

"""Reading a call's credential: what can be said of it before anything of the call but its metadata is read."""

import re
from collections.abc import Iterable
from typing import Any

from ravan.rpc.keys import is_signed_by
from ravan.rpc.signing import CALL_KEY, SIGNATURE_KEY, Statement
from server.errors import (
    FutureCall,
    MalformedCredential,
    NoCredential,
    OtherMethod,
    StaleCall,
    WrongSignature,
)

_KEYS = (CALL_KEY, SIGNATURE_KEY)
_SIGNATURE = re.compile("[0-9a-f]{128}")


def read(metadata: Iterable[tuple[str, Any]], method: str) -> Statement:
    """The statement of a call, signed by the key it names and for this method.

    Raises:
        NoCredential, MalformedCredential, OtherMethod, WrongSignature: it is not.
    """
    found = [(key, value) for key, value in metadata if key in _KEYS]
    if not found:
        raise NoCredential(
            "The call is not signed: enroll this device with ravan-edge enroll, then use ravan-edge run."
        )
    given = dict(found)
    try:
        if len(found) != len(_KEYS) or not _SIGNATURE.fullmatch(given[SIGNATURE_KEY]):
            raise ValueError("not one statement and one signature")
        statement = Statement.parse(given[CALL_KEY])
    except (ValueError, KeyError, TypeError):
        raise MalformedCredential("The call is signed in a form that is unknown here: update ravan-fl.") from None
    if statement.method != method:
        raise OtherMethod("The signature is for another method: sign every call anew.")
    if not is_signed_by(statement.key, given[SIGNATURE_KEY], str(statement)):
        raise WrongSignature("The signature is not by the key that the call names: sign with this device's key.")
    return statement


def check_time(statement: Statement, now: float, skew: float) -> None:
    """Refuses a call that was signed too far from now.

    Raises:
        StaleCall, FutureCall: by more than ``skew`` seconds; says by how many.
    """
    ahead = statement.seconds - now
    if abs(ahead) <= skew:
        return
    kind, where = (StaleCall, "behind") if ahead < 0 else (FutureCall, "ahead of")
    raise kind(
        f"This machine's clock is {_duration(abs(ahead))} {where} the server's, {skew:.0f} s are allowed: set it."
    )


def _duration(seconds: float) -> str:
    if seconds < 7200:
        return f"{seconds:.0f} s"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"

"""Signed calls: what a caller states of a call, its signature, and the interceptor that adds both to the metadata.

The format is described in ``protos/ravan/v1/enrollment.proto``.
"""

import hashlib
import itertools
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import grpc

from ravan.rpc.keys import PrivateKey, public_hex

SCHEME = "ravan-call-1"
CALL_KEY, SIGNATURE_KEY = "ravan-call", "ravan-signature"
_CALL = re.compile(
    rf"{SCHEME} (/[\w.]+/\w+) ([0-9a-f]{{64}}) ([0-9]{{1,15}}) ([0-9a-f]{{32}}) ([0-9a-f]{{64}})", re.ASCII
)

ChannelOptions = Sequence[tuple[str, int | str]]
Metadata = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Statement:
    """What a caller states and signs.

    Attributes:
        method: the call's full name, as "/ravan.v1.Fleet/CheckIn".
        body: sha256 of the first message's bytes, hex.
        milliseconds: when it was signed, since 1970.
        nonce: 32 hexadecimal digits, never used twice.
        key: the caller's public key, hex.
    """

    method: str
    body: str
    milliseconds: int
    nonce: str
    key: str

    def __str__(self) -> str:
        return f"{SCHEME} {self.method} {self.body} {self.milliseconds} {self.nonce} {self.key}"

    @classmethod
    def parse(cls, text: str) -> "Statement":
        """The statement of a text.

        Raises:
            ValueError: it follows another format.
        """
        found = _CALL.fullmatch(text)
        if found is None:
            raise ValueError("not a statement of this version")
        method, body, milliseconds, nonce, key = found.groups()
        return cls(method, body, int(milliseconds), nonce, key)

    @property
    def seconds(self) -> float:
        """When it was signed, Unix time."""
        return self.milliseconds / 1000


def signed(key: PrivateKey, method: str, body: bytes, now: float) -> Metadata:
    """The metadata of a call whose first message has these bytes."""
    digest = hashlib.sha256(body).hexdigest()
    statement = Statement(method, digest, round(now * 1000), secrets.token_hex(16), public_hex(key))
    return with_signature(key, statement)


def with_signature(key: PrivateKey, statement: Statement) -> Metadata:
    """The metadata of a statement, signed."""
    text = str(statement)
    return (CALL_KEY, text), (SIGNATURE_KEY, key.sign(text.encode()).hex())


def signed_channel(address: str, ca: str | None, signing: "Signing", options: ChannelOptions) -> grpc.Channel:
    """A channel over TLS whose calls are signed; ``ca`` is what it trusts, PEM, None for public authorities."""
    credentials = grpc.ssl_channel_credentials(None if ca is None else ca.encode())
    return grpc.intercept_channel(grpc.secure_channel(address, credentials, options=options), signing)


class _Serializable(Protocol):
    def SerializeToString(self) -> bytes: ...


class _Details(NamedTuple):
    """``grpc.ClientCallDetails`` with other metadata."""

    method: str
    timeout: float | None
    metadata: Any
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: Any


class Signing(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamUnaryClientInterceptor):
    """Signs every call of a channel with ``key``, each attempt anew; the key may be replaced by its owner."""

    def __init__(self, key: PrivateKey, clock: Callable[[], float] = time.time) -> None:
        self.key = key
        self._clock = clock

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Signs a call of one message."""
        return continuation(self._signed(client_call_details, request), request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Signs a call of one message that is answered with a stream."""
        return continuation(self._signed(client_call_details, request), request)

    def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Iterator[Any]
    ) -> Any:
        """Signs a stream over its first message."""
        first = next(request_iterator)
        return continuation(self._signed(client_call_details, first), itertools.chain([first], request_iterator))

    def _signed(self, details: Any, message: _Serializable) -> _Details:
        added = signed(self.key, details.method, message.SerializeToString(), self._clock())
        metadata = [*(details.metadata or ()), *added]
        return _Details(details.method, details.timeout, metadata, details.credentials, details.wait_for_ready, None)

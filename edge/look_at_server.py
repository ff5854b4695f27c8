"""The doctor's look at the server: whether it answers, is the right one, has the same time, and lets the device in."""

import time
from collections.abc import Callable, Iterator

import grpc

from edge.enrollment import DAY, SHUT_OUT, TRUST
from edge.findings import Finding, problem, sound, warning
from edge.fleet_client import PLAIN
from edge.identity import Identity
from protos.ravan.v1.fleet_pb2 import AskUploadRequest
from protos.ravan.v1.fleet_pb2_grpc import FleetStub
from ravan.errors import Unreachable
from ravan.rpc.address import certificate_ends, speaks_tls, tls_problem
from ravan.rpc.refusal import code_of, sentence_of, status_of
from ravan.rpc.signing import Signing, signed_channel
from ravan.rpc.transfer import CHANNEL_OPTIONS, TIME_KEY

Clock = Callable[[], float]
HEALTH = "/grpc.health.v1.Health/Check"
SERVING = b"\x08\x01"
"""The answer of a server that serves, as bytes: field 1 is 1."""
SECONDS = 10.0
SKEW_SECONDS = 60.0
"""How far clocks may be apart before it is worth a word; calls are refused by default beyond 300."""
SOON = 14 * DAY


def look_at_server(address: str, identity: Identity | None, clock: Clock) -> Iterator[Finding]:
    """Over TLS with a device's identity, in plain text without one."""
    if identity is None:
        yield _plain(address, clock)
        return
    wrong = tls_problem(address, identity.ca, TRUST)
    if wrong:
        yield problem("server", wrong)
        return
    signing = Signing(identity.key, clock)
    with signed_channel(address, identity.ca, signing, CHANNEL_OPTIONS) as channel:
        try:
            ahead = _health(channel, clock)
        except Unreachable as error:
            yield problem("server", f"No server answers at {address} ({error}): check the address and the network.")
            return
        yield sound("server", f"{address} answers over TLS and is trusted.")
        yield from _certificate(address, identity, clock())
        yield from _clock(ahead)
        yield _let_in(channel, identity)


def _plain(address: str, clock: Clock) -> Finding:
    with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        try:
            _health(channel, clock)
        except Unreachable as error:
            if speaks_tls(address):
                return problem("server", PLAIN.format(address))
            return problem("server", f"No server answers at {address} ({error}): start it, or check the address.")
    return sound("server", f"{address} answers, without TLS.")


def _health(channel: grpc.Channel, clock: Clock) -> float | None:
    """Seconds that this clock is ahead of the server's; None if it does not tell the time.

    Raises:
        Unreachable: how it does not answer, in a word.
    """
    check: grpc.UnaryUnaryMultiCallable[_Empty, bytes] = channel.unary_unary(
        HEALTH, request_serializer=_Empty.SerializeToString
    )
    began = clock()
    try:
        answer, call = check.with_call(_Empty(), timeout=SECONDS)
    except grpc.RpcError as error:
        raise Unreachable(status_of(error).name.lower()) from error
    ended = clock()
    if answer != SERVING:
        raise Unreachable("it is not serving")
    told = dict(call.initial_metadata() or ()).get(TIME_KEY, "")
    return (began + ended) / 2 - int(told) / 1000 if str(told).isdigit() else None


class _Empty:
    """A message without fields, which any request of a health check may be."""

    def SerializeToString(self) -> bytes:
        return b""


def _certificate(address: str, identity: Identity, now: float) -> Iterator[Finding]:
    ends = certificate_ends(address, identity.ca)
    if ends is None:
        return
    until = f"The server's certificate is valid until {_day(ends)}"
    if ends - now < SOON:
        yield warning("certificate", f"{until}: ask the operator to renew it (ravan-server init --renew).")
    else:
        yield sound("certificate", f"{until}.")


def _clock(ahead: float | None) -> Iterator[Finding]:
    if ahead is None:
        return
    if abs(ahead) > SKEW_SECONDS:
        how = "ahead of" if ahead > 0 else "behind"
        yield problem("clock", f"This machine's clock is {abs(ahead):.0f} s {how} the server's: set it.")
    else:
        yield sound("clock", f"This machine's clock is within {max(abs(ahead), 0.1):.1f} s of the server's.")


def _let_in(channel: grpc.Channel, identity: Identity) -> Finding:
    """Asks about an upload that there is none of: whoever hears that is let in."""
    try:
        FleetStub(channel).AskUpload(AskUploadRequest(device_id=identity.device_id), timeout=SECONDS)
    except grpc.RpcError as error:
        if status_of(error) in SHUT_OUT:
            return problem("let in", f"The server does not let this device in ({code_of(error)}): {sentence_of(error)}")
        if not code_of(error):
            return problem("let in", f"The server did not answer ({status_of(error).name.lower()}): try again.")
    return sound("let in", "The server knows this device and lets it in.")


def _day(moment: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(moment))

"""Becoming known to a server, and changing the key it knows."""

import re
import time
from dataclasses import replace

import grpc
import structlog

from edge.errors import NotLetIn, Refused
from edge.fleet_client import CALL_SECONDS, FleetClient
from edge.identity import ENROLLING, ROTATING, Identities, Identity
from protos.ravan.v1 import enrollment_pb2 as pb
from protos.ravan.v1 import enrollment_pb2_grpc as rpc
from ravan.errors import NotTrusted, Unreachable
from ravan.rpc.address import tls_problem
from ravan.rpc.keys import PUBLIC
from ravan.rpc.refusal import code_of, sentence_of, status_of
from ravan.rpc.signing import Signing, signed_channel
from ravan.rpc.transfer import CHANNEL_OPTIONS

log = structlog.get_logger()
SHUT_OUT = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
DAY = 86_400.0  # seconds
TRUST = "give --ca the ca.pem that the operator has"


def enroll(identities: Identities, name: str, server: str, ca: str | None, token: str, operator: str = "") -> Identity:
    """Trades a token for a place among the server's devices, with a key made here.

    A lost answer is asked for again by calling again: the same key and token get the same answer. Whose bundles the
    device loads is the ``operator``'s public key (hex), or what the server says of it this once.

    Raises:
        NotTrusted, Unreachable: the server is not the right one, or does not answer.
        NotLetIn: it takes neither this token nor this key; or Refused, for another reason.
    """
    fresh = identities.get(name, ENROLLING)
    if fresh is None or (fresh.server, fresh.ca) != (server, ca):
        fresh = Identity.new(name, server, ca, time.time())
        identities.keep(fresh, ENROLLING)
    try:
        request = pb.EnrollRequest(token=token, public_key=fresh.public_key, name=name)
        with signed_channel(server, ca, Signing(fresh.key), CHANNEL_OPTIONS) as channel:
            answer = rpc.EnrollmentStub(channel).Enroll(request, timeout=CALL_SECONDS)
    except grpc.RpcError as error:
        if code_of(error):
            identities.drop(fresh, ENROLLING)
            kind = NotLetIn if status_of(error) in SHUT_OUT else Refused
            raise kind(code_of(error), sentence_of(error)) from error
        problem = tls_problem(server, ca, TRUST)
        if problem:
            identities.drop(fresh, ENROLLING)
            raise NotTrusted(problem) from error
        raise Unreachable(
            f"No server answers at {server} ({status_of(error).name.lower()}): check the address and try again."
        ) from error
    known = replace(fresh, operator=operator or answer.operator_key)
    if answer.operator_key != known.operator or not re.fullmatch(PUBLIC, known.operator):
        raise NotTrusted("The server names another operator's key than the one expected: ask the operator which holds.")
    identities.keep(known, ENROLLING)
    identities.settle(known, ENROLLING)
    return known


def rotate(identities: Identities, client: FleetClient) -> None:
    """Gives the device a new key, which is written before the server hears of it.

    Raises:
        Refused: the server does not take it; the old key stays.
    """
    old = client.identity
    if old is None:
        return
    fresh = identities.get(old.name, ROTATING)
    if fresh is None or fresh.device_id != old.device_id:
        fresh = old.rotated(time.time())
        identities.keep(fresh, ROTATING)
        _tell(client, fresh, by=old, or_by=fresh)
    else:  # cut off before the server's answer
        _tell(client, fresh, by=fresh, or_by=old)
    client.use(fresh)
    identities.settle(fresh, ROTATING)
    log.info("key rotated", device=fresh.device_id[:8])


def _tell(client: FleetClient, fresh: Identity, *, by: Identity, or_by: Identity) -> None:
    """Tells the server of a new key, signed by the one that it knows, which may be either if an answer was lost.

    Raises:
        Refused: it takes neither; the client goes on with the key it had.
    """
    before = client.identity
    try:
        client.use(by)
        client.rotate_key(fresh.public_key)
    except Refused as error:
        try:
            client.use(or_by)
            client.rotate_key(fresh.public_key)
        except Refused:
            if before is not None:
                client.use(before)
            raise error from None


def rotate_if_due(identities: Identities, client: FleetClient, days: int) -> None:
    """Rotates a key that is older than that, 0 for never, or whose rotation was cut off."""
    if client.identity is None:
        return
    cut_off = identities.path(client.identity.name, ROTATING).exists()
    if cut_off or (days and time.time() - client.identity.made_at > days * DAY):
        rotate(identities, client)

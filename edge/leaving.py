"""Leaving the federation: the server is told, and what the device held for it is deleted."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog

from edge.clients import CLIENTS
from edge.enrollment import TRUST
from edge.home import PERSONAL, WORK
from edge.identity import ROTATING, Identities, Identity
from edge.quota import BUNDLES, CACHE_FILES
from edge.status import STATUS
from edge.strength import STRENGTH
from edge.upload_log import RECEIVED, UPLOADS, read_uploads
from protos.ravan.v1.enrollment_pb2 import LeaveRequest
from protos.ravan.v1.enrollment_pb2_grpc import EnrollmentStub
from ravan.files import sync_folder
from ravan.rpc.address import tls_problem
from ravan.rpc.refusal import code_of, sentence_of, status_of
from ravan.rpc.signing import Signing, signed_channel
from ravan.rpc.transfer import CHANNEL_OPTIONS

log = structlog.get_logger()
OUT_ALREADY = {"revoked", "unknown-device"}
"""Refusals by which the server says that it knows the device no more."""
TELL_SECONDS = 20.0
DATA = (WORK, PERSONAL, BUNDLES, CLIENTS, STRENGTH, *CACHE_FILES, STATUS)
"""What stands in a home beside the keys, and is deleted; the owner's record of uploads stays."""


@dataclass(frozen=True)
class Farewell:
    """What the server said to one device.

    Attributes:
        device_id: as it knew the device.
        name: of the device.
        counted: updates that are part of adapters and stay so; None if the server did not say.
        problem: why the server does not know, in a sentence; empty if it does.
    """

    device_id: str
    name: str
    counted: int | None = None
    problem: str = ""


def leave(home: Path, identities: Identities, name: str | None = None) -> list[Farewell]:
    """Ends the part of one device, or of all of a home, and deletes what is theirs; the caller holds the home's lock.

    The server is asked once; what is here is deleted whatever it says. Bundles, caches and adapters go with the last
    device, since devices share them. Killed in the middle, it is finished by calling again: keys go last.
    """
    known = identities.names()
    going = known if name is None else [name]
    farewells = [tell(identities, each) for each in going if identities.get(each) is not None]
    if set(known) <= set(going):
        for path in (home / part for part in DATA):
            _delete(path)
        _delete(home / "devices")
    for each in going:
        for path in identities.files(each):
            _delete(path)
    sync_folder(home)
    return farewells


def remains(home: Path, farewells: Sequence[Farewell]) -> Iterator[str]:
    """What leaving did not undo, in sentences."""
    for farewell in farewells:
        if farewell.problem:
            told = f"{farewell.problem} Ask the operator to revoke {farewell.device_id}: its key is gone from here."
            yield f"The server was not told: {told}"
    sent = sum(farewell.counted or 0 for farewell in farewells)
    if any(farewell.counted is None for farewell in farewells):
        sent = sum(upload["outcome"] == RECEIVED for upload in read_uploads(home))
    if sent:
        updates = "1 update that is" if sent == 1 else f"{sent} updates that are"
        yield f"The server keeps {updates} counted already: what they added to the model can't be taken back."
    if (home / UPLOADS).exists():
        yield f"{home / UPLOADS} stays, your own record of what was sent: delete it if you like."


def tell(identities: Identities, name: str) -> Farewell:
    """Tells the server, by the key that it knows: if a rotation was cut off, that may be either."""
    current = identities.get(name)
    assert current is not None
    farewell = _ask(current)
    fresh = identities.get(name, ROTATING)
    return _ask(fresh) if farewell.counted is None and fresh is not None else farewell


def _ask(identity: Identity) -> Farewell:
    device_id, name = identity.device_id, identity.name
    try:
        with signed_channel(identity.server, identity.ca, Signing(identity.key), CHANNEL_OPTIONS) as channel:
            answer = EnrollmentStub(channel).Leave(LeaveRequest(device_id=device_id), timeout=TELL_SECONDS)
    except grpc.RpcError as error:
        if code_of(error) in OUT_ALREADY:
            return Farewell(device_id, name)
        if code_of(error):
            return Farewell(device_id, name, problem=sentence_of(error))
        why = tls_problem(identity.server, identity.ca, TRUST)
        no_answer = f"No server answers at {identity.server} ({status_of(error).name.lower()})."
        return Farewell(device_id, name, problem=why or no_answer)
    log.info("left", device=device_id[:8])
    return Farewell(device_id, name, answer.counted_updates)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

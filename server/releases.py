"""Versions of the client: taken from the operator, kept, and handed out to devices of their kind."""

import asyncio
import hashlib
import tempfile
from collections import Counter
from collections.abc import AsyncIterator

import structlog

from protos.ravan.v1 import control_pb2 as control
from protos.ravan.v1 import releases_pb2 as pb
from protos.ravan.v1 import releases_pb2_grpc as rpc
from ravan.errors import ReleaseError
from ravan.faults import reached
from ravan.rpc.transfer import chunks
from ravan.rpc.vouching import Archive, is_signed_archive
from ravan.versions import is_newer
from server.errors import BadRequest, Incomplete, NotFound, TooLarge, WrongHash, WrongState
from server.guard import Context, guarded, printable
from server.records import Release
from server.requests import check_device_id
from server.storage import Storage

log = structlog.get_logger()


class Releases(rpc.ReleasesServicer):
    """Offers devices what the operator signed for their kind of machine."""

    def __init__(self, storage: Storage, refused: Counter[str]) -> None:
        self._storage = storage
        self.refused = refused

    @guarded
    async def FindRelease(self, request: pb.FindReleaseRequest, context: Context) -> pb.FindReleaseResponse:
        """The release for the device's kind of machine, if it is newer than the device's."""
        check_device_id(request.device_id)
        for release in await self._storage.call(self._storage.state.releases):
            archive = release.archive
            if archive.machine == request.machine and is_newer(archive.version, request.version):
                return pb.FindReleaseResponse(release=archive.to_proto(release.signature))
        return pb.FindReleaseResponse()

    @guarded
    async def FetchRelease(
        self, request: pb.FetchReleaseRequest, context: Context
    ) -> AsyncIterator[pb.FetchReleaseResponse]:
        """An archive from an offset on; what was sent is counted, also when the line breaks."""
        check_device_id(request.device_id)
        offered = await self._storage.call(self._storage.state.releases)
        if request.sha256 not in {release.archive.sha256 for release in offered}:
            raise NotFound(f"Release {request.sha256[:64]!r} is not offered any more: ask which one is.")
        pieces, sent = self._storage.archives.pieces(request.sha256, request.offset), 0
        try:
            while piece := await asyncio.to_thread(next, pieces, b""):
                for part in chunks(piece):
                    sent += len(part)
                    yield pb.FetchReleaseResponse(data=part)
        finally:
            await self._storage.call(self._storage.state.count_bundle_bytes, request.device_id, sent)


async def take(storage: Storage, operator: str | None, messages: AsyncIterator[control.SetReleaseRequest]) -> Release:
    """Keeps an archive that the operator signed and sends, and offers it from then on.

    Raises:
        WrongState: the server has no operator's key.
        ReleaseError: the signature is not by that key.
        BadRequest, TooLarge, Incomplete, WrongHash: what comes is not what was signed.
    """
    release = _signed(await _first(messages), operator)
    archive, digest, held = release.archive, hashlib.sha256(), 0
    with tempfile.TemporaryFile() as file:
        async for message in messages:
            if message.WhichOneof("part") != "data":
                raise BadRequest("After its description a release holds only data: send it by ravan-server release.")
            held += len(message.data)
            if held > archive.size:
                raise TooLarge(f"The archive has more than the {archive.size} bytes that were signed: sign it again.")
            digest.update(message.data)
            await asyncio.to_thread(file.write, message.data)
        if held < archive.size:
            raise Incomplete(f"The archive ended after {held} of {archive.size} bytes: send it again.")
        if digest.hexdigest() != archive.sha256:
            raise WrongHash("The archive received is not the one that was signed: send it again.")
        await asyncio.to_thread(storage.archives.put_file, file, archive.sha256)
    reached("archive-stored")
    before = await storage.call(storage.state.set_release, release)
    await _forget(storage, before)
    log.info("release offered", machine=archive.machine, version=archive.version, sha256=archive.sha256[:12])
    return release


async def withdraw(storage: Storage, machine: str) -> Release:
    """Offers a kind of machine no release any more; those that have it keep it.

    Raises:
        NotFound: none is offered to it.
    """
    release = await storage.call(storage.state.withdraw_release, printable(machine))
    await _forget(storage, release)
    log.info("release withdrawn", machine=release.archive.machine, version=release.archive.version)
    return release


async def _forget(storage: Storage, before: Release | None) -> None:
    """Drops an archive that is offered no more."""
    offered = {release.archive.sha256 for release in await storage.call(storage.state.releases)}
    if before is not None and before.archive.sha256 not in offered:
        await asyncio.to_thread(storage.archives.drop, before.archive.sha256)


async def _first(messages: AsyncIterator[control.SetReleaseRequest]) -> pb.Release:
    async for message in messages:
        if message.WhichOneof("part") == "release":
            return message.release
        break
    raise BadRequest("A release begins with its description: send it by ravan-server release.")


def _signed(message: pb.Release, operator: str | None) -> Release:
    """The release of a message, once its signature holds."""
    if operator is None:
        raise WrongState("This server is insecure and has no operator's key, so that no device would take a release.")
    archive = Archive.from_proto(message)
    if not is_signed_archive(operator, message.signature, archive):
        raise ReleaseError(
            "The release is not signed by this server's operator key, so that no device would take it: run "
            "ravan-server release where operator.key is."
        )
    return Release(archive, message.signature)

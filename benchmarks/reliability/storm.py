"""A storm of uploads: every device sends its update many times at once, and others under its name, and breaks off."""

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

import grpc

from benchmarks.reliability.devices import CAPABILITIES, Reference, draw
from protos.ravan.v1 import fleet_pb2 as pb
from protos.ravan.v1 import fleet_pb2_grpc as rpc
from ravan.rpc.transfer import CHANNEL_OPTIONS, CODE_KEY
from ravan.update import Update, encode

AT_ONCE = 64  # uploads
PIECE = 700  # bytes of a message, so that even a small update comes in several
RECEIPT = ""
"""The code of an upload that was given a receipt."""


class Kind(Enum):
    """What one upload of the storm is."""

    SAME = "the device's update"
    RIVAL = "another update by the same device"
    BROKEN = "the device's update, broken off in the middle"
    RESUMED = "the device's update from where the server has it"


SHARES = {Kind.SAME: 60, Kind.RIVAL: 20, Kind.BROKEN: 15, Kind.RESUMED: 5}
"""Of a hundred uploads."""


@dataclass(frozen=True)
class Upload:
    """One upload and what came of it: a receipt, or a code; "cancelled" for one that was broken off."""

    device: str
    kind: Kind
    sha256: str
    receipt: str
    code: str


@dataclass
class Storm:
    """Rounds of uploads by devices with two connections each.

    Attributes:
        address: of the server.
        devices: their ids.
        reference: follows what the server must publish.
        each: uploads of a device in a round.
        uploads: all that were made.
        problems: what must not be; empty if all is well.
        adapters: sha256 that must have been published, by round.
    """

    address: str
    devices: Sequence[str]
    reference: Reference
    each: int
    seed: int = 0
    uploads: list[Upload] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    adapters: list[str] = field(default_factory=list)

    async def blow(self, rounds: int) -> None:
        """Plays the rounds."""
        self._generator = random.Random(self.seed)
        self._turn = asyncio.Semaphore(AT_ONCE)
        channels = [grpc.aio.insecure_channel(self.address, options=_own(n)) for n in range(2 * len(self.devices))]
        try:
            self._stubs = {d: (rpc.FleetStub(a), rpc.FleetStub(b)) for d, a, b in self._pairs(channels)}
            for number in range(1, rounds + 1):
                await self._round(number)
        finally:
            await asyncio.gather(*(channel.close() for channel in channels))

    def _pairs(self, channels: list[grpc.aio.Channel]) -> Iterator[tuple[str, grpc.aio.Channel, grpc.aio.Channel]]:
        return zip(self.devices, channels[::2], channels[1::2], strict=True)

    async def _round(self, number: int) -> None:
        bindings = await self._bindings(number)
        sent: dict[str, dict[str, Update]] = {}
        calls = []
        for index, device in enumerate(self.devices):
            own, rival = (draw(self.reference.spec, self.reference.adapter, index + add, number) for add in (0, 1000))
            sent[device] = {_sha256(self._bytes(update)): update for update in (own, rival)}
            for kind in self._generator.choices(list(SHARES), list(SHARES.values()), k=self.each):
                data = self._bytes(rival if kind is Kind.RIVAL else own)
                calls.append(self._upload(device, bindings[device], kind, data, self._generator.random()))
        self._generator.shuffle(calls)
        done = await asyncio.gather(*calls)
        self.uploads += done
        won = {device: self._judge(device, [u for u in done if u.device == device]) for device in self.devices}
        self.adapters.append(self.reference.publish({d: sent[d][sha256] for d, sha256 in won.items()}))

    def _bytes(self, update: Update) -> bytes:
        return encode(self.reference.spec, update)

    async def _bindings(self, number: int) -> dict[str, pb.Binding]:
        """Checks in until every device has a task of this round."""
        found: dict[str, pb.Binding] = {}
        while len(found) < len(self.devices):
            for device in self.devices:
                request = pb.CheckInRequest(device_id=device, name="storm", capabilities=CAPABILITIES)
                answer = await self._stubs[device][0].CheckIn(request)
                if answer.HasField("task") and answer.task.binding.round == number:
                    found[device] = answer.task.binding
        return found

    async def _upload(self, device: str, binding: pb.Binding, kind: Kind, data: bytes, luck: float) -> Upload:
        sha256 = _sha256(data)
        stub = self._stubs[device][luck < 0.5]
        async with self._turn:
            receipt, code = "", RECEIPT
            try:
                offset = 0
                if kind is Kind.RESUMED:
                    asked = pb.AskUploadRequest(device_id=device, binding=binding, sha256=sha256)
                    offset = (await stub.AskUpload(asked)).held
                header = pb.UploadHeader(
                    device_id=device, binding=binding, sha256=sha256, size=len(data), offset=offset
                )
                call = stub.UploadUpdate(_messages(header, data[offset:]))
                if kind is Kind.BROKEN:
                    await asyncio.sleep(0.02 * luck)
                    call.cancel()
                receipt = (await call).receipt
            except asyncio.CancelledError:
                code = "cancelled"
            except grpc.aio.AioRpcError as error:
                code = str(dict(error.trailing_metadata() or ()).get(CODE_KEY, error.code().name))
        return Upload(device, kind, sha256, receipt, code)

    def _judge(self, device: str, uploads: Sequence[Upload]) -> str:
        """The sha256 of the one update of a device that got a receipt in a round."""
        taken = [u for u in uploads if u.code == RECEIPT]
        winners = {u.sha256 for u in taken}
        if len({u.receipt for u in taken}) != 1 or len(winners) != 1:
            self.problems.append(f"{device} has {len(winners)} updates with a receipt in a round")
        codes = Counter(u.code for u in uploads if u.sha256 not in winners)
        codes += Counter(u.code for u in uploads if u.sha256 in winners and u.code != RECEIPT)
        other = set(codes) - {"conflict", "cancelled", "wrong-offset"}
        if other:
            self.problems.append(f"uploads of {device} were refused as {', '.join(sorted(other))}")
        losers = [u for u in uploads if u.sha256 in winners and u.code == "conflict"]
        if losers:
            self.problems.append(f"{len(losers)} copies of a counted update of {device} were refused")
        return winners.pop()


async def _messages(header: pb.UploadHeader, data: bytes) -> AsyncIterator[pb.UploadUpdateRequest]:
    yield pb.UploadUpdateRequest(header=header)
    for start in range(0, len(data), PIECE):
        yield pb.UploadUpdateRequest(data=data[start : start + PIECE])


def _own(number: int) -> list[tuple[str, int | str]]:
    """Options of a channel with a connection of its own: channels alike share one."""
    return [*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1), ("ravan.connection", number)]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

"""What devices' requests to the Fleet service say, checked; all of it may be hostile."""

import math
import re
from collections.abc import AsyncIterator

from protos.ravan.v1 import fleet_pb2 as pb
from ravan.rpc.plan import WIRE_FORMATS
from server.errors import BadRequest, UnknownFormat
from server.guard import printable
from server.records import Device, LocalReport, Run

_DEVICE_ID = re.compile(r"[0-9a-f]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def device_of(request: pb.CheckInRequest, now: float) -> Device:
    """The device that checks in.

    Raises:
        BadRequest: it makes no sense.
    """
    check_device_id(request.device_id)
    c = request.capabilities
    if not 0 < c.head_budget <= 1:
        raise BadRequest(f"A head budget of {c.head_budget} makes no sense: send a fraction above 0, at most 1.")
    texts = [printable(text) for text in (request.name, c.machine, c.software)]
    memory = min(c.memory_bytes, 2**62)
    return Device(request.device_id, texts[0], now, min(c.cores, 2**20), memory, texts[1], texts[2], c.head_budget)


def check_format(capabilities: pb.Capabilities, run: Run) -> None:
    """Lets a device pass that could upload to the run: no other must be selected.

    Raises:
        UnknownFormat: it could not.
    """
    wire = run.options.wire
    if WIRE_FORMATS[wire] not in (capabilities.wire_formats or [pb.WIRE_FORMAT_FP32]):
        raise UnknownFormat(f"This run takes updates in {wire}, which this device does not know: update ravan-fl.")


def check_device_id(device_id: str) -> None:
    """Lets an id of the edge client's form pass.

    Raises:
        BadRequest: it is none.
    """
    if not _DEVICE_ID.fullmatch(device_id):
        raise BadRequest("A device id has 32 hexadecimal digits: let the edge client choose one.")


def check_sha256(sha256: str) -> None:
    """Lets a sha256 in hexadecimal pass.

    Raises:
        BadRequest: it is none.
    """
    if not _SHA256.fullmatch(sha256):
        raise BadRequest("The update's sha256 is not 64 hexadecimal digits: send the update again.")


async def first(messages: AsyncIterator[pb.UploadUpdateRequest]) -> pb.UploadUpdateRequest:
    """An upload's first message, with its header.

    Raises:
        BadRequest: it makes no sense.
    """
    async for message in messages:
        if message.WhichOneof("part") == "header":
            return message
        break
    raise BadRequest("An upload begins with its header: send what the edge client sends.")


async def data_of(messages: AsyncIterator[pb.UploadUpdateRequest]) -> AsyncIterator[bytes]:
    """The bytes that follow it.

    Raises:
        BadRequest: it makes no sense.
    """
    async for message in messages:
        if message.WhichOneof("part") != "data":
            raise BadRequest("After its header an upload holds only data: send what the edge client sends.")
        yield message.data


def report_of(report: pb.TrainingReport) -> LocalReport:
    """What the device says of its training.

    Raises:
        BadRequest: it makes no sense.
    """
    if not all(map(math.isfinite, (report.first_loss, report.last_loss, report.seconds))):
        raise BadRequest("The report's losses and seconds must be finite: do not upload a run that diverged.")
    return LocalReport(
        examples=min(report.examples, 2**62),
        steps=report.steps,
        first_loss=report.first_loss,
        last_loss=report.last_loss,
        seconds=report.seconds,
        heads_per_layer=min(report.heads_per_layer, 2**31 - 1),
    )

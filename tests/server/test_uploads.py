"""Uploads that break and go on: what is kept of them, for whom, and for how long."""

import asyncio
import hashlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from protos.ravan.v1 import fleet_pb2 as pb
from ravan.bundle import Bundle
from ravan.norms import Norms
from ravan.update import encode
from server import turns
from server.door import Door
from server.records import AssignmentState
from tests.server.hosting import DEVICES, Host, hosting, refusal

A, B = DEVICES[:2]


def played(bundle: Bundle, state: Path, play: Callable[[Host], Awaitable[None]]) -> None:
    """Runs a scene against a server."""

    async def scene() -> None:
        async with hosting(state, bundle) as host:
            await play(host)

    asyncio.run(asyncio.wait_for(scene(), 60))


def header(device: str, binding: pb.Binding, data: bytes, offset: int = 0) -> pb.UploadHeader:
    digest = hashlib.sha256(data).hexdigest()
    return pb.UploadHeader(device_id=device, binding=binding, sha256=digest, size=len(data), offset=offset)


async def begin(
    host: Host, head: pb.UploadHeader, data: bytes
) -> tuple[grpc.aio.StreamUnaryCall[Any, Any], asyncio.Event]:
    """An upload that sends some bytes, then nothing until the event is set."""
    go_on = asyncio.Event()

    async def messages() -> AsyncIterator[pb.UploadUpdateRequest]:
        yield pb.UploadUpdateRequest(header=head)
        yield pb.UploadUpdateRequest(data=data)
        await go_on.wait()

    return host.fleet.UploadUpdate(messages()), go_on


async def held(host: Host, device: str, binding: pb.Binding, data: bytes) -> int:
    digest = hashlib.sha256(data).hexdigest()
    answer = await host.fleet.AskUpload(pb.AskUploadRequest(device_id=device, binding=binding, sha256=digest))
    return int(answer.held)


async def keep(host: Host, binding: pb.Binding, data: bytes, first: int) -> None:
    """Breaks the line of device A after the first bytes, once they are kept."""
    call, _ = await begin(host, header(A, binding, data), data[:first])
    while await held(host, A, binding, data) < first:
        await asyncio.sleep(0.01)
    call.cancel()


def files(state: Path) -> list[Path]:
    return [path for path in (state / "partials").iterdir() if path.is_file()]


def test_an_upload_goes_on_where_its_line_broke_also_after_a_restart(bundle: Bundle, tmp_path: Path) -> None:
    async def scene() -> None:
        async with hosting(tmp_path, bundle) as host:
            await host.begin(rounds=1)
            binding = (await host.tasks([A, B]))[A].binding
            data = encode(bundle.manifest.adapter, host.update(0))
            await keep(host, binding, data, 1000)
        async with hosting(tmp_path, bundle) as host:
            assert await held(host, A, binding, data) == 1000
            receipt = await host.send(header(A, binding, data, 1000), data[1000:])
            assert receipt.endswith(f"/1/{A}")
            assert files(tmp_path) == []
            assert await host.send(header(A, binding, data), b"") == receipt

    asyncio.run(scene())


def test_nobody_goes_on_with_anything_but_the_same_bytes(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        await host.begin()
        tasks = await host.tasks([A, B])
        data, other = (encode(bundle.manifest.adapter, host.update(seed)) for seed in (0, 1))
        await keep(host, tasks[A].binding, data, 1000)
        assert await held(host, A, tasks[A].binding, other) == 0
        assert await held(host, B, tasks[B].binding, data) == 0
        for device, wrong in ((A, header(A, tasks[A].binding, data, 1001)), (B, header(B, tasks[B].binding, data, 1))):
            assert (await refusal(host.send(wrong, data)))[:2] == ("wrong-offset", "OUT_OF_RANGE"), device
        mixed = header(A, tasks[A].binding, data, 1000)
        assert (await refusal(host.send(mixed, other[1000:])))[0] == "wrong-hash"
        assert await held(host, A, tasks[A].binding, data) == 0

    played(bundle, tmp_path, play)


def test_a_device_takes_one_file_and_none_once_the_round_is_over(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        await host.begin(clients_per_round=1, over_select=1)
        tasks = await host.tasks([A, B])
        for seed in range(3):
            data = encode(bundle.manifest.adapter, host.update(seed))
            await keep(host, tasks[A].binding, data, 1000)
            assert len(files(tmp_path)) == 1
        await host.upload(B, tasks[B].binding, host.update(9))
        await host.settle()
        assert files(tmp_path) == []

    played(bundle, tmp_path, play)


def test_a_line_that_is_silent_makes_way_for_the_device_that_came_back(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "STALLED", 0.1)

    async def play(host: Host) -> None:
        await host.begin()
        binding = (await host.tasks([A, B]))[A].binding
        data = encode(bundle.manifest.adapter, host.update(0))
        silent, _ = await begin(host, header(A, binding, data), data[:1000])
        await asyncio.sleep(0.3)
        assert not silent.done()
        assert await host.send(header(A, binding, data), data)
        assert (await refusal(silent))[:2] == ("too-slow", "ABORTED")

    played(bundle, tmp_path, play)


def test_an_update_that_is_whole_counts_even_if_the_line_breaks_then(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_the_door, admit = threading.Event(), Door.admit

    def slowly(*arguments: Any) -> Norms:
        at_the_door.set()
        time.sleep(0.2)
        return admit(*arguments)

    monkeypatch.setattr(Door, "admit", slowly)

    async def play(host: Host) -> None:
        run = await host.begin()
        binding = (await host.tasks([A, B]))[A].binding
        data = encode(bundle.manifest.adapter, host.update(0))
        call, go_on = await begin(host, header(A, binding, data), data)
        go_on.set()
        await asyncio.to_thread(at_the_door.wait, 10)
        call.cancel()
        state = host.coordinator._storage.state
        while (part := state.assignment(run.run_id, 1, A)) and part.state is not AssignmentState.RECEIVED:
            await asyncio.sleep(0.01)
        assert part is not None
        assert await host.send(header(A, binding, data), b"") == part.receipt

    played(bundle, tmp_path, play)


def test_an_adapter_comes_from_any_offset(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        await host.begin()
        task = (await host.tasks([A, B]))[A]

        async def fetched(offset: int) -> bytes:
            request = pb.FetchAdapterRequest(device_id=A, binding=task.binding, offset=offset)
            return b"".join([m.data async for m in host.fleet.FetchAdapter(request)])

        whole = await fetched(0)
        assert hashlib.sha256(whole).hexdigest() == task.binding.base_adapter
        assert await fetched(len(whole) - 7) == whole[-7:]
        assert await fetched(2**63) == b""

    played(bundle, tmp_path, play)


def test_the_same_update_gets_its_receipt_when_its_round_is_long_over(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        await host.begin(clients_per_round=1, rounds=2)
        binding = (await host.tasks([A]))[A].binding
        receipt = await host.upload(A, binding, host.update(0))
        await host.settle()
        assert (await host.tasks([A]))[A].binding.round == 2
        assert await host.upload(A, binding, host.update(0)) == receipt
        assert (await refusal(host.upload(A, binding, host.update(1))))[:2] == ("conflict", "ALREADY_EXISTS")
        assert (await refusal(host.upload(B, binding, host.update(0))))[:2] == ("stale-round", "FAILED_PRECONDITION")

    played(bundle, tmp_path, play)

"""A real server on loopback for tests, with its coordinator stepped by hand."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from protos.ravan.v1 import control_pb2_grpc, fleet_pb2_grpc
from protos.ravan.v1 import fleet_pb2 as pb
from ravan.bundle import Bundle
from ravan.rpc.transfer import CODE_KEY, chunks
from ravan.update import Update, encode
from server.control_address import control_address
from server.coordinator import Coordinator
from server.records import Run
from server.serving import serving
from server.settings import RunSettings, ServeSettings
from tests.ravan.updates import full_update

DEVICES = [f"{number:032x}" for number in range(1, 9)]


@dataclass
class Host:
    """A server under test and stubs to call it."""

    coordinator: Coordinator
    fleet: fleet_pb2_grpc.FleetAsyncStub
    control: control_pb2_grpc.ControlAsyncStub
    bundle: Bundle
    channel: grpc.aio.Channel
    address: str
    run: Run | None = None

    async def begin(self, **options: object) -> Run:
        """Creates a run that polls fast."""
        defaults: dict[str, object] = {"rounds": 2, "clients_per_round": 2, "poll_min": 0.01, "poll_max": 0.02}
        settings = RunSettings(bundle=self.bundle.folder, **(defaults | options))  # type: ignore[arg-type]
        self.run = await self.coordinator.create_run(settings)
        return self.run

    async def settle(self) -> None:
        """Lets the coordinator take steps until it waits."""
        assert self.run is not None
        while not await self.coordinator.step(await self.coordinator.find_run(self.run.run_id)):
            pass

    async def check_in(
        self, device: str, head_budget: float = 1.0, formats: Sequence[int] = (), hold: float = 0.0
    ) -> pb.CheckInResponse:
        """One device's check-in; without formats and ``hold`` that of an older device, which knows fp32 alone."""
        capabilities = pb.Capabilities(
            cores=2,
            memory_bytes=1 << 30,
            machine="x86_64",
            head_budget=head_budget,
            wire_formats=formats,  # type: ignore[arg-type]
        )
        return await self.fleet.CheckIn(
            pb.CheckInRequest(device_id=device, name="test", capabilities=capabilities, hold_seconds=hold)
        )

    async def tasks(self, devices: list[str], formats: Sequence[int] = ()) -> dict[str, pb.Task]:
        """Opens a round and returns the tasks of the devices that were selected."""
        await self.settle()
        for device in devices:
            await self.check_in(device, formats=formats)
        await self.settle()
        answers = {device: await self.check_in(device, formats=formats) for device in devices}
        return {device: answer.task for device, answer in answers.items() if answer.HasField("task")}

    def update(self, seed: int) -> Update:
        """A random update that fits the bundle."""
        return full_update(self.bundle.manifest.adapter, np.random.default_rng(seed))

    async def upload(self, device: str, binding: pb.Binding, data: bytes | Update) -> str:
        """Uploads an update as the client does; returns the receipt."""
        if isinstance(data, Update):
            data = encode(self.bundle.manifest.adapter, data)
        header = pb.UploadHeader(
            device_id=device, binding=binding, sha256=hashlib.sha256(data).hexdigest(), size=len(data)
        )
        return await self.send(header, data)

    async def send(self, header: pb.UploadHeader, data: bytes) -> str:
        """Uploads any bytes under any header."""

        async def messages() -> AsyncIterator[pb.UploadUpdateRequest]:
            yield pb.UploadUpdateRequest(header=header)
            for piece in chunks(data):
                yield pb.UploadUpdateRequest(data=piece)

        return (await self.fleet.UploadUpdate(messages())).receipt

    @asynccontextmanager
    async def moving(self) -> AsyncIterator[None]:
        """The coordinator takes steps by itself, as in a real server."""
        moving = asyncio.create_task(self.coordinator.serve())
        try:
            yield
        finally:
            moving.cancel()
            await asyncio.gather(moving, return_exceptions=True)


@asynccontextmanager
async def hosting(state: Path, bundle: Bundle, database: str = "") -> AsyncIterator[Host]:
    """A server on a free port, with state in a folder that may hold an earlier server's, or in a database beside it."""
    shared: dict[str, Any] = {"state": database, "folder": state, "lease": 1.0} if database else {"state": state}
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(ServeSettings(listen="127.0.0.1:0", insecure=True, **shared)))
        devices = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{server.port}"))
        operator = await stack.enter_async_context(grpc.aio.insecure_channel(control_address(state, "").target))
        fleet, control = fleet_pb2_grpc.FleetStub(devices), control_pb2_grpc.ControlStub(operator)
        yield Host(server.coordinator, fleet, control, bundle, devices, f"127.0.0.1:{server.port}")


async def refusal(call: Awaitable[object]) -> tuple[str, str, str]:
    """Code, gRPC status and sentence of a call that must be refused."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        codes = [str(value) for key, value in error.trailing_metadata() or () if key == CODE_KEY]
        return (codes or [""])[0], error.code().name, error.details() or ""
    raise AssertionError("the call was not refused")


Change = Callable[[pb.Binding], None]

"""The server process: storage, coordinator, and the two gRPC services on their own addresses."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from protos.ravan.v1 import control_pb2_grpc, fleet_pb2_grpc
from ravan.errors import EnvironmentProblem
from ravan.rpc.transfer import CHANNEL_OPTIONS, CONTROL_OPTIONS
from ravan.runtime.session import RuntimeOptions
from server.control import Control
from server.coordinator import Coordinator
from server.fleet import Fleet
from server.settings import ServeSettings
from server.storage import Storage

log = structlog.get_logger()
GRACE_SECONDS = 2.0
NOT_SHARED = ("grpc.so_reuseport", 0)  # a port in use is an error
MOST_CALLS = 10_000  # at once; more are refused at once, and devices try again
LONGEST_SOCKET = 100  # bytes; the system's limit for a Unix socket's path is 108


@dataclass(frozen=True)
class Serving:
    """A running server: its coordinator, and the port that devices reach it on."""

    coordinator: Coordinator
    port: int


@asynccontextmanager
async def serving(settings: ServeSettings) -> AsyncIterator[Serving]:
    """Both services, ready to answer; the coordinator is not moving yet.

    Raises:
        EnvironmentProblem: the state folder or an address can't be used.
    """
    storage = Storage(settings.state)
    try:
        coordinator = Coordinator(storage, RuntimeOptions(threads=settings.threads))
        devices = grpc.aio.server(options=[*CHANNEL_OPTIONS, NOT_SHARED], maximum_concurrent_rpcs=MOST_CALLS)
        operator = grpc.aio.server(options=[*CONTROL_OPTIONS, NOT_SHARED])
        fleet_pb2_grpc.add_FleetServicer_to_server(Fleet(storage, coordinator), devices)
        control_pb2_grpc.add_ControlServicer_to_server(Control(storage, coordinator), operator)
        checks = health.aio.HealthServicer()
        await checks.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(checks, devices)
        port = _listen(devices, settings.listen)
        _listen(operator, control_address(settings.state, settings.control))
        await devices.start()
        await operator.start()
        try:
            yield Serving(coordinator, port)
        finally:
            await checks.enter_graceful_shutdown()
            await asyncio.gather(devices.stop(GRACE_SECONDS), operator.stop(GRACE_SECONDS))
    finally:
        storage.close()


async def serve(settings: ServeSettings) -> None:
    """Serves until Ctrl-C, SIGTERM or, if so set, the end of a run."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serving(settings) as server:
        log.info("serving", listen=settings.listen, port=server.port, state=str(settings.state))
        moving = asyncio.create_task(server.coordinator.serve(until_finished=settings.until_finished))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({moving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not moving.done():
            log.info("stopping; the run goes on at the next start")
            moving.cancel()
        stopping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await moving


def control_address(state: Path, control: str) -> str:
    """Where the Control service listens: as set, or a socket that only this user can reach."""
    if control:
        return control
    path = (state / "control.sock").resolve()
    if len(str(path)) > LONGEST_SOCKET:
        raise EnvironmentProblem(
            f"{path} is too long for a socket: set --control to an address such as 127.0.0.1:7072."
        )
    return f"unix:{path}"


def _listen(server: grpc.aio.Server, address: str) -> int:
    if address.startswith("unix:"):
        Path(address.removeprefix("unix:")).unlink(missing_ok=True)  # of a killed server; the state's lock is ours
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise EnvironmentProblem(f"{address} can't be used: choose another port or stop the program on it.") from error
    if address.startswith("unix:"):
        Path(address.removeprefix("unix:")).chmod(0o600)
    return port

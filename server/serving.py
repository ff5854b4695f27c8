"""The server process: storage, coordinator, and the gRPC services on their addresses."""

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from protos.ravan.v1 import control_pb2_grpc, enrollment_pb2_grpc, fleet_pb2_grpc, releases_pb2_grpc
from ravan import faults
from ravan.errors import EnvironmentProblem, SettingsError
from ravan.rpc.address import is_local
from ravan.rpc.transfer import CHANNEL_OPTIONS, OPERATOR_OPTIONS
from ravan.runtime.session import RuntimeOptions
from server import callers
from server.control import Control
from server.control_address import SOCKET, ControlAddress, control_address
from server.coordinator import Coordinator
from server.enrollment import Enrollment
from server.fleet import Fleet
from server.folder_storage import FolderStorage
from server.gate import Gate
from server.held import Held
from server.lean import STREAM_OPTIONS, share_one_arena
from server.messages import Opening
from server.postgres import check_driver
from server.releases import Releases
from server.replays import Replays
from server.settings import ServeSettings
from server.storage import Storage
from server.tls import Tls, server_credentials

log = structlog.get_logger()
GRACE_SECONDS = 2.0
REFUSED_SECONDS = 2.0
NOT_SHARED = ("grpc.so_reuseport", 0)  # a port in use is an error
STREAMS = ("grpc.max_concurrent_streams", 100)  # of one connection; more wait at the client
MOST_CALLS = 10_000  # at once; more are refused at once, and devices try again


@dataclass(frozen=True)
class Serving:
    """A running server: coordinator, ports for devices and operator (of a socket no real one), refusals by code."""

    coordinator: Coordinator
    port: int
    control_port: int
    refused: Mapping[str, int]


@asynccontextmanager
async def serving(settings: ServeSettings) -> AsyncIterator[Serving]:
    """All services, ready to answer; the coordinator is not moving yet.

    Raises:
        SettingsError: ``insecure`` on an address that other machines reach.
        EnvironmentProblem: the state folder, the certificate or an address can't be used.
    """
    credentials, operator = _credentials(settings), control_address(settings.place.folder, settings.control)
    holder = None if settings.insecure else operator.tls.operator_holder()
    storage = open_storage(settings)
    try:
        refused: Counter[str] = Counter()
        coordinator = Coordinator(storage, RuntimeOptions(threads=settings.threads))
        checks = health.aio.HealthServicer()
        before_devices, before_operator = _gates(settings, storage, operator, refused)
        held = Held(storage, coordinator, random.Random())  # noqa: S311 - spreads check-ins, hides nothing
        fleet = Fleet(storage, coordinator, held, refused)
        enrollment = Enrollment(storage, refused, holder, coordinator.wake) if holder else None
        devices = _for_devices(fleet, Releases(storage, refused), enrollment, checks, before_devices)
        operators = grpc.aio.server(
            interceptors=before_operator or [Opening(refused)], options=[*OPERATOR_OPTIONS, NOT_SHARED]
        )
        control_pb2_grpc.add_ControlServicer_to_server(Control(storage, coordinator, refused, holder), operators)
        port = _listen(devices, settings.listen, credentials)
        control_port = _listen(
            operators, operator.target, server_credentials(operator.tls) if before_operator else None
        )
        await checks.set("", health_pb2.HealthCheckResponse.SERVING)
        await devices.start()
        await operators.start()
        adding_up = asyncio.create_task(_add_up(storage, refused))
        try:
            yield Serving(coordinator, port, control_port, refused)
        finally:
            adding_up.cancel()
            await checks.enter_graceful_shutdown()
            held.let_go()
            await asyncio.gather(devices.stop(GRACE_SECONDS), operators.stop(GRACE_SECONDS))
    finally:
        storage.close()


async def _add_up(storage: Storage, refused: Counter[str]) -> None:
    """Lets the servers that share the state know from time to time what this one refused."""
    while True:
        await asyncio.sleep(REFUSED_SECONDS)
        try:
            await storage.refusals(refused)
        except EnvironmentProblem as error:
            log.warning("database away", reason=str(error))


def _credentials(settings: ServeSettings) -> grpc.ServerCredentials | None:
    """The certificate for devices; None for an insecure server, which nobody but this machine reaches."""
    if not settings.insecure:
        return server_credentials(Tls.of(settings.place.folder))
    if not is_local(settings.listen):
        raise SettingsError(
            f"--insecure: other machines reach {settings.listen}: listen on loopback, or run ravan-server init for TLS."
        )
    log.warning("insecure: no TLS, and any program on this machine is let in as a device", listen=settings.listen)
    return None


def _for_devices(
    fleet: Fleet,
    releases: Releases,
    enrollment: Enrollment | None,
    checks: health.aio.HealthServicer,
    gates: Sequence[Gate],
) -> grpc.aio.Server:
    """Fleet and Releases, and Enrollment where there is an operator's key to tell of."""
    server = grpc.aio.server(
        interceptors=gates or [Opening(fleet.refused)],
        options=[*CHANNEL_OPTIONS, *STREAM_OPTIONS, STREAMS, NOT_SHARED],
        maximum_concurrent_rpcs=MOST_CALLS,
    )
    fleet_pb2_grpc.add_FleetServicer_to_server(fleet, server)
    releases_pb2_grpc.add_ReleasesServicer_to_server(releases, server)
    if enrollment:
        enrollment_pb2_grpc.add_EnrollmentServicer_to_server(enrollment, server)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    return server


def _gates(
    settings: ServeSettings, storage: Storage, operator: ControlAddress, refused: Counter[str]
) -> tuple[list[Gate], list[Gate]]:
    """The gates before devices and before the operator; none where the machine says who may come."""
    replays = Replays(storage, settings.clock_skew)

    def gate(identify: callers.Identify) -> Gate:
        return Gate(identify, replays, settings.clock_skew, refused)

    return (
        [] if settings.insecure else [gate(callers.devices(storage))],
        [] if operator.is_socket else [gate(callers.operator(operator.tls.operator_holder()))],
    )


async def serve(settings: ServeSettings) -> None:
    """Serves until Ctrl-C, SIGTERM or, if so set, the end of a run."""
    share_one_arena()
    if fault := faults.asked():
        log.warning(f"this server kills itself, as {faults.VARIABLE} says", point=fault.point, time=fault.time)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serving(settings) as server:
        log.info("serving", listen=settings.listen, port=server.port, state=str(settings.place))
        moving = asyncio.create_task(server.coordinator.serve(until_finished=settings.until_finished))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({moving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not moving.done():
            log.info("stopping; the run goes on at the next start")
            moving.cancel()
        stopping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await moving


def open_storage(settings: ServeSettings) -> Storage:
    """Everything the server keeps.

    Raises:
        EnvironmentProblem: the folder or the database can't be used, or another server uses the folder.
    """
    place = settings.place
    if not place.database:
        return FolderStorage(place.folder)
    check_driver()
    from server.shared_storage import SharedStorage

    return SharedStorage(place.database, place.folder, settings.lease)


def _listen(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    if address.startswith(SOCKET):
        Path(address.removeprefix(SOCKET)).unlink(missing_ok=True)  # of a killed server; the state's lock is ours
    before = os.umask(0o177)  # a socket is its user's alone from its first moment on
    try:
        return server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except RuntimeError as error:
        raise EnvironmentProblem(f"{address} can't be used: choose another port or stop the program on it.") from error
    finally:
        os.umask(before)

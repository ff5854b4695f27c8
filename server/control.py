"""The Control service: what the operator calls."""

import json
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable

import structlog

from protos.ravan.v1 import control_pb2 as pb
from protos.ravan.v1 import control_pb2_grpc as rpc
from ravan.cli.settings import validate
from ravan.errors import SettingsError
from ravan.faults import reached
from ravan.rpc.transfer import chunks
from server.coordinator import Coordinator
from server.enrollment import hash_of
from server.errors import BadRequest, NotFound
from server.guard import Context, guarded, printable
from server.releases import take, withdraw
from server.report import RUN_STATES, report_devices, report_run
from server.settings import RunSettings
from server.storage import Storage

log = structlog.get_logger()
WATCH_SECONDS = 5.0
TOKEN_BYTES = 20
MOST_TOKENS = 10_000  # at once
LONGEST_VALID = 366 * 86_400.0  # seconds


class Control(rpc.ControlServicer):
    """Creates, changes and shows runs; says which devices may take part, and which client they are offered."""

    def __init__(
        self,
        storage: Storage,
        coordinator: Coordinator,
        refused: Counter[str],
        operator: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._storage = storage
        self._coordinator = coordinator
        self.refused = refused
        self._operator = operator
        self._clock = clock

    @guarded
    async def CreateRun(self, request: pb.CreateRunRequest, context: Context) -> pb.CreateRunResponse:
        """Starts a run from settings in JSON."""
        try:
            given = json.loads(request.settings_json)
        except (ValueError, RecursionError) as error:
            raise SettingsError(f"The run's settings are not JSON ({error}): use ravan-server create.") from error
        if not isinstance(given, dict):
            raise SettingsError("The run's settings are not a JSON object: use ravan-server create.")
        run = await self._coordinator.create_run(validate(RunSettings, given), request.bundle_signature, self._operator)
        return pb.CreateRunResponse(run=await self._report(run.run_id))

    @guarded
    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:
        """All runs, newest first."""
        runs = await self._storage.call(self._storage.state.runs)
        return pb.ListRunsResponse(runs=[await self._report(run.run_id) for run in runs])

    @guarded
    async def WatchRun(self, request: pb.WatchRunRequest, context: Context) -> AsyncIterator[pb.WatchRunResponse]:
        """A run's status after every change, until it ends."""
        run_id, shown = (await self._coordinator.find_run(request.run_id)).run_id, None
        while True:
            report = await self._report(run_id)
            if _without_clock(report) != shown:
                shown = _without_clock(report)
                yield pb.WatchRunResponse(run=report)
            if report.state in (pb.RUN_STATE_FINISHED, pb.RUN_STATE_STOPPED):
                return
            await self._coordinator.changed(WATCH_SECONDS)

    @guarded
    async def SetRunState(self, request: pb.SetRunStateRequest, context: Context) -> pb.SetRunStateResponse:
        """Pauses, resumes or stops a run."""
        wanted = {message: state for state, message in RUN_STATES.items()}.get(request.state)
        if wanted is None:
            raise BadRequest("Say which state the run should have: active, paused or stopped.")
        run = await self._coordinator.set_state(request.run_id, wanted)
        return pb.SetRunStateResponse(run=await self._report(run.run_id))

    @guarded
    async def ListDevices(self, request: pb.ListDevicesRequest, context: Context) -> pb.ListDevicesResponse:
        """All devices, most recently seen first."""
        devices = await self._storage.call(report_devices, self._storage.state)
        refused = await self._storage.refusals(self.refused)
        return pb.ListDevicesResponse(devices=devices, refused=refused)

    @guarded
    async def CreateTokens(self, request: pb.CreateTokensRequest, context: Context) -> pb.CreateTokensResponse:
        """One-time tokens for devices to enroll with; hashes of them are kept."""
        if not (0 < request.count <= MOST_TOKENS and 0 < request.valid_seconds <= LONGEST_VALID):
            raise BadRequest(f"Make 1 to {MOST_TOKENS:,} tokens that are valid for at most a year.")
        now = self._clock()
        tokens = [f"ravan-{secrets.token_hex(TOKEN_BYTES)}" for _ in range(request.count)]
        hashes, expires_at = [hash_of(token) for token in tokens], now + request.valid_seconds
        await self._storage.call(self._storage.state.add_tokens, hashes, now, expires_at)
        reached("tokens-made")
        log.info("tokens made", count=request.count, valid_seconds=request.valid_seconds)
        return pb.CreateTokensResponse(tokens=tokens, expires_at=expires_at)

    @guarded
    async def RevokeDevice(self, request: pb.RevokeDeviceRequest, context: Context) -> pb.RevokeDeviceResponse:
        """Ends a device's rights, from its next call on."""
        holders = await self._storage.call(self._storage.state.holders)
        found = [holder for holder in holders if request.device_id and holder.device_id.startswith(request.device_id)]
        if not found:
            raise NotFound(f"No enrolled device is {printable(request.device_id)!r}: see ravan-server devices list.")
        if len(found) > 1:
            raise BadRequest(f"{len(found)} devices begin with {request.device_id}: give more of the id.")
        (holder,) = found
        await self._storage.call(self._storage.state.revoke, holder.device_id, self._clock())
        log.info("device revoked", device=holder.device_id[:8], name=holder.name)
        self._coordinator.wake()
        return pb.RevokeDeviceResponse(device_id=holder.device_id, name=holder.name)

    @guarded
    async def ExportAdapter(
        self, request: pb.ExportAdapterRequest, context: Context
    ) -> AsyncIterator[pb.ExportAdapterResponse]:
        """The best or last adapter as a safetensors file."""
        run = await self._coordinator.find_run(request.run_id)
        data = await self._coordinator.exports.read(run, best=request.best)
        for piece in chunks(data):
            yield pb.ExportAdapterResponse(data=piece)

    @guarded
    async def SetRelease(
        self, request_iterator: AsyncIterator[pb.SetReleaseRequest], context: Context
    ) -> pb.SetReleaseResponse:
        """Takes a signed archive of the client."""
        await take(self._storage, self._operator, request_iterator)
        return pb.SetReleaseResponse()

    @guarded
    async def ListReleases(self, request: pb.ListReleasesRequest, context: Context) -> pb.ListReleasesResponse:
        """The releases that are offered, by machine."""
        offered = await self._storage.call(self._storage.state.releases)
        return pb.ListReleasesResponse(releases=[release.archive.to_proto(release.signature) for release in offered])

    @guarded
    async def WithdrawRelease(self, request: pb.WithdrawReleaseRequest, context: Context) -> pb.WithdrawReleaseResponse:
        """Offers a kind of machine none any more."""
        release = await withdraw(self._storage, request.machine)
        return pb.WithdrawReleaseResponse(release=release.archive.to_proto(release.signature))

    async def _report(self, run_id: str) -> pb.Run:
        run = await self._storage.call(self._storage.state.run, run_id)
        return await self._storage.call(report_run, self._storage.state, run)


def _without_clock(report: pb.Run) -> bytes:
    """What must differ for a report to be worth sending again: all but the seconds of the open round."""
    still = pb.Run()
    still.CopyFrom(report)
    for r in still.rounds:
        r.ClearField("seconds")
    return still.SerializeToString(deterministic=True)

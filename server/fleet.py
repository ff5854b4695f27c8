"""The Fleet service: what devices call."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any

import structlog

from protos.ravan.v1 import fleet_pb2 as pb
from protos.ravan.v1 import fleet_pb2_grpc as rpc
from ravan.bundle import Bundle
from ravan.bundle_files import MANIFEST
from ravan.errors import BundleError, RavanError, WrongSpec
from ravan.faults import reached
from ravan.rpc.plan import plan_to_proto
from ravan.rpc.transfer import CHUNK, chunks
from ravan.wire import largest_upload
from server.budgets import accept
from server.coordinator import Coordinator
from server.door import Door
from server.errors import (
    FutureRound,
    NotFound,
    NotSelected,
    RoundClosed,
    StaleRound,
    TooLarge,
    WrongBase,
    WrongBundle,
)
from server.guard import LONGEST_TEXT, Context, guarded, printable
from server.held import Held
from server.looks import Standing, bound, standing, uploading
from server.pace import Window
from server.records import Assignment, Device, Round, Run, RunState
from server.requests import check_device_id, check_sha256, data_of, device_of, first, report_of
from server.storage import Storage
from server.uploads import Uploads

log = structlog.get_logger()
NO_RUN_WAIT = 5.0, 15.0  # seconds
SHORTEST_WAIT = 1.0  # seconds; the end of a window after a check-in that was held
LARGEST_ROUND = 2**31 - 1


class Fleet(rpc.FleetServicer):
    """Answers devices; everything it promises is durable first."""

    def __init__(
        self,
        storage: Storage,
        coordinator: Coordinator,
        held: Held,
        refused: Counter[str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.refused = refused
        self._held = held
        self._working: set[asyncio.Task[None]] = set()
        self._storage = storage
        self._coordinator = coordinator
        self._latest = coordinator.latest
        self._uploads, self._door = Uploads(storage), Door(self._latest)
        self._clock = clock

    @guarded
    async def CheckIn(self, request: pb.CheckInRequest, context: Context) -> pb.CheckInResponse:
        """A task for a device that has a part in the open round, else when to come back."""
        device, capabilities = device_of(request, self._clock()), request.capabilities
        with self._held.place(device.device_id) as place:
            answer = await self._answer(device, capabilities, seen=False)
            if answer.wait.reason == pb.WAIT_REASON_NOT_SELECTED:
                self._coordinator.wake()
                # No longer than the device counts as present; what it waits here it need not wait there.
                hold = min(request.hold_seconds, 2 * answer.wait.max_seconds)
                if await place.called(hold):
                    return await self._answer(device, capabilities, seen=True)
                answer.wait.min_seconds = max(answer.wait.min_seconds - place.held, 0)
                shortest = min(answer.wait.max_seconds, SHORTEST_WAIT)
                answer.wait.max_seconds = max(answer.wait.max_seconds - place.held, shortest)
            return answer

    async def _answer(self, device: Device, capabilities: pb.Capabilities, *, seen: bool) -> pb.CheckInResponse:
        """A task if there is one now; the device is noted unless it was ``seen`` already."""
        call, state = self._storage.call, self._storage.state
        at = await call(standing, state, device, partial(accept, capabilities), seen=seen)
        if at is None:
            ended = await call(state.runs)
            return await self._wait(NO_RUN_WAIT, pb.WAIT_REASON_RUN_FINISHED if ended else pb.WAIT_REASON_NO_RUN)
        polls = at.run.options.poll_min, at.run.options.poll_max
        if at.run.state is RunState.PAUSED:
            return await self._wait(polls, pb.WAIT_REASON_RUN_PAUSED)
        if at.newest and at.part and at.is_awaited:
            return pb.CheckInResponse(task=await self._task(at.run, at.newest, at.part))
        return await self._wait(polls, pb.WAIT_REASON_NOT_SELECTED)

    @guarded
    async def FetchBundle(
        self, request: pb.FetchBundleRequest, context: Context
    ) -> AsyncIterator[pb.FetchBundleResponse]:
        """One file of an active run's bundle, from an offset on."""
        check_device_id(request.device_id)
        runs = await self._storage.call(self._storage.state.runs)
        run = next((r for r in runs if r.bundle_id == request.bundle_id), None)
        if run is None:
            raise NotFound(f"No run uses bundle {request.bundle_id[:64]!r}: check in for a task.")
        bundle = await self._coordinator.bundles.of(run)
        if request.file == MANIFEST:
            data = bundle.manifest.to_json().encode()
            for piece in chunks(data[request.offset :]):
                yield pb.FetchBundleResponse(data=piece)
        elif request.file in bundle.manifest.files:
            async for piece in self._file(bundle, request):
                yield pb.FetchBundleResponse(data=piece)
        else:
            raise NotFound(f"The bundle has no file {request.file[:LONGEST_TEXT]!r}: read its manifest.")

    async def _file(self, bundle: Bundle, request: pb.FetchBundleRequest) -> AsyncIterator[bytes]:
        """A file's pieces from the offset on; what was sent is counted, also when the line breaks."""
        sent = 0
        try:
            with bundle.path(request.file).open("rb") as file:
                file.seek(min(request.offset, bundle.manifest.files[request.file].size))
                while piece := await asyncio.to_thread(file.read, CHUNK):
                    sent += len(piece)
                    yield piece
        except FileNotFoundError:
            raise BundleError("The server's bundle was moved: tell the operator to put it back.") from None
        finally:
            await self._storage.call(self._storage.state.count_bundle_bytes, request.device_id, sent)

    @guarded
    async def FetchAdapter(
        self, request: pb.FetchAdapterRequest, context: Context
    ) -> AsyncIterator[pb.FetchAdapterResponse]:
        """The adapter that the device's round starts from, from an offset on."""
        run, current, part = await self._part(request.binding, await self._bound(request))
        data = (await asyncio.to_thread(self._latest.data, current.base_adapter))[request.offset :]
        sent = 0
        try:
            for piece in chunks(data):
                sent += len(piece)
                yield pb.FetchAdapterResponse(data=piece)
        finally:
            count = self._storage.state.count_bytes_down
            self._later(self._storage.call(count, run.run_id, current.number, part.device_id, sent))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        """Does what no device need wait for, and nobody misses if the server ends before."""

        async def done() -> None:
            try:
                await work
            except RavanError as error:
                log.warning("bytes sent are not counted", reason=str(error))

        task = asyncio.create_task(done())
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    @guarded
    async def AskUpload(self, request: pb.AskUploadRequest, context: Context) -> pb.AskUploadResponse:
        """How much of an update is on disk."""
        at = await self._uploading(request)
        if at is None:
            return pb.AskUploadResponse()
        _, _, part = await self._part(request.binding, at)
        return pb.AskUploadResponse(held=await self._uploads.held(part, request.sha256))

    @guarded
    async def UploadUpdate(
        self, request_iterator: AsyncIterator[pb.UploadUpdateRequest], context: Context
    ) -> pb.UploadUpdateResponse:
        """Checks an update, makes it durable, counts it, and only then gives the receipt."""
        header = (await first(request_iterator)).header
        reached("header-read")
        report, binding = report_of(header.report), header.binding
        part, at = Assignment(binding.run_id, binding.round, header.device_id), await self._uploading(header)
        if at is not None:
            run, current, part = await self._part(binding, at)
            spec, wire = (await self._coordinator.bundles.of(run)).manifest.adapter, run.options.wire
            largest = largest_upload(spec, wire)
            if not header.offset <= header.size <= largest:
                raise TooLarge(f"An update of this run has at most {largest} bytes in {wire}: send what was trained.")
            received = part.received(header.sha256, header.size, report)
            check = partial(self._door.admit, spec, run.options, current, part)
            await self._uploads.take(received, check, header.offset, data_of(request_iterator))
            self._coordinator.wake()
        reached("receipt-given")
        context.add_done_callback(lambda _: reached("receipt-sent"))  # type: ignore[arg-type]
        return pb.UploadUpdateResponse(receipt=part.receipt)

    async def _uploading(self, request: pb.UploadHeader | pb.AskUploadRequest) -> Standing | None:
        """Where the device stands; None if its update is counted already."""
        check_device_id(request.device_id)
        check_sha256(request.sha256)
        run_id, number = printable(request.binding.run_id), min(request.binding.round, LARGEST_ROUND)
        call, state = self._storage.call, self._storage.state
        return await call(uploading, state, request.device_id, run_id, number, request.sha256)

    @guarded
    async def ReportFailure(self, request: pb.ReportFailureRequest, context: Context) -> pb.ReportFailureResponse:
        """Takes a device's part back, so that the round can close without it."""
        run, current, part = await self._part(request.binding, await self._bound(request))
        failure = f"{printable(request.code)}: {printable(request.reason)}"
        await self._storage.call(self._storage.state.fail, run.run_id, current.number, part.device_id, failure)
        log.warning("device failed", run=run.run_id, round=current.number, device=part.device_id[:8], reason=failure)
        self._coordinator.wake()
        return pb.ReportFailureResponse()

    async def _wait(self, wanted: Window, reason: pb.WaitReason) -> pb.CheckInResponse:
        shortest, longest = await self._coordinator.pace.window(wanted)
        return pb.CheckInResponse(wait=pb.Wait(min_seconds=shortest, max_seconds=longest, reason=reason))

    async def _task(self, run: Run, current: Round, part: Assignment) -> pb.Task:
        bundle = await self._coordinator.bundles.of(run)
        binding = pb.Binding(
            run_id=run.run_id,
            round=current.number,
            bundle_id=run.bundle_id,
            adapter_spec=bundle.manifest.adapter.digest,
            base_adapter=current.base_adapter,
        )
        return pb.Task(
            binding=binding,
            adapter_size=await asyncio.to_thread(self._storage.adapters.size, current.base_adapter),
            plan=plan_to_proto(run.options.plan(current.number)),
            deadline_seconds=max((current.deadline or 0) - self._clock(), 0),
            bundle_signature=run.bundle_signature or "",
            head_budget=part.head_budget or 0,
        )

    async def _bound(self, request: pb.FetchAdapterRequest | pb.ReportFailureRequest) -> Standing:
        """Where the device stands in the round that it names."""
        check_device_id(request.device_id)
        call, state, named = self._storage.call, self._storage.state, request.binding
        return await call(bound, state, request.device_id, printable(named.run_id), named.round)

    async def _part(self, binding: pb.Binding, at: Standing) -> tuple[Run, Round, Assignment]:
        """The device's part in the round that the request is bound to.

        Raises:
            StaleRound, FutureRound, WrongBundle, WrongSpec, WrongBase, NotSelected: a field of the binding is wrong.
        """
        run, current, newest = at.run, at.round, at.newest.number if at.newest else 0
        if run.state.ended:
            raise RoundClosed(f"Run {run.run_id} has ended: drop the update and check in.")
        if binding.round > newest:
            raise FutureRound(f"Round {binding.round} is not open, round {newest} is: drop the update and check in.")
        if current is None or (binding.round < newest and not run.options.is_async):
            raise StaleRound(f"Round {binding.round} is over, round {newest} is the newest: drop it and check in.")
        if binding.bundle_id != run.bundle_id:
            raise WrongBundle("The request is bound to another bundle: check in and fetch this run's bundle.")
        bundle = await self._coordinator.bundles.of(run)
        if binding.adapter_spec != bundle.manifest.adapter.digest:
            raise WrongSpec("The request is bound to another adapter spec: check in and fetch this run's bundle.")
        if binding.base_adapter != current.base_adapter:
            raise WrongBase("The request is bound to another adapter: check in and fetch this round's adapter.")
        if at.part is None:
            raise NotSelected(f"This device has no part in round {current.number}: check in and do as told.")
        return run, current, at.part

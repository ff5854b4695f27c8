"""What an operator does to runs: begin, find, pause, resume and stop them."""

import asyncio
import secrets
import time
from collections.abc import Callable

import structlog

from ravan.bundle import INITIAL
from ravan.faults import reached
from ravan.runtime.session import RuntimeOptions
from ravan.update import decode
from server.bundles import Bundles
from server.errors import NotFound, WrongState
from server.evaluation import Examiner, with_metric
from server.exports import Exports
from server.records import RoundState, Run, RunState
from server.settings import RunSettings
from server.signatures import require_signature
from server.storage import Storage

log = structlog.get_logger()


class Runs:
    """Runs as an operator sees them, at whichever server."""

    def __init__(
        self, storage: Storage, runtime: RuntimeOptions | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.bundles = Bundles(storage.shelf)
        self.exports = Exports(storage, self.bundles)
        self._storage = storage
        self._examiner = Examiner(self.bundles, runtime or RuntimeOptions())
        self._clock = clock
        self._called = False
        self._wake = asyncio.Event()

    async def create_run(self, settings: RunSettings, signature: str = "", operator: str | None = None) -> Run:
        """Starts a run from its settings.

        Args:
            settings: of the run.
            signature: of its bundle; by default the one in the bundle's folder.
            operator: public key (hex) that devices trust; None where there are no keys.

        Raises:
            BundleError: the bundle is damaged, or not signed by the operator's key.
            DataError: the held-out examples can't be read.
            WrongState: another run is active.
        """
        if await self._storage.call(self._storage.state.active_run):
            raise WrongState("Another run is active: let it finish or stop it first.")
        bundle = await self.bundles.take(settings.bundle)
        reached("bundle-opened")
        bundle_id = bundle.manifest.bundle_id
        signed = require_signature(settings.bundle, bundle_id, signature, operator) if operator else None
        initial = bundle.path(INITIAL).read_bytes()
        decode(bundle.manifest.adapter, initial)
        run = Run(
            run_id=secrets.token_hex(6),
            state=RunState.ACTIVE,
            bundle_id=bundle_id,
            bundle_folder=str(bundle.folder),
            model=bundle.manifest.model,
            trainable_parameters=bundle.manifest.adapter.size,
            evaluation_file=await self.bundles.take_examples(settings.evaluation) if settings.evaluation else None,
            options=with_metric(settings.options, bundle),
            adapter=await asyncio.to_thread(self._storage.adapters.put, initial),
            created_at=self._clock(),
            bundle_signature=signed,
        )
        reached("initial-stored")
        await self._examiner.load(run)
        await self._storage.call(self._storage.state.create_run, run)
        reached("run-created")
        log.info("run created", run=run.run_id, bundle=run.bundle_id[:12], rounds=run.options.rounds)
        self.wake()
        return run

    def wake(self) -> None:
        """Says that something happened that may allow the next step, here or on the server that leads."""
        self._called = True
        self._wake.set()

    async def set_state(self, run_id: str, wanted: RunState) -> Run:
        """Pauses, resumes or stops a run.

        Raises:
            WrongState: the run has ended, or the state is not the operator's to set.
        """
        call, state = self._storage.call, self._storage.state
        run = await self.find_run(run_id)
        if wanted is RunState.FINISHED:
            raise WrongState("A run finishes by itself: stop it to end it before.")
        if run.state is RunState.PAUSED and wanted is RunState.ACTIVE:
            await self._give_time(run)
        await call(state.set_run_state, run.run_id, wanted, self._clock())
        self.wake()
        return await call(state.run, run.run_id)

    async def find_run(self, run_id: str) -> Run:
        """The run of this id; for an empty one the active run, else the newest.

        Raises:
            NotFound: there is none.
        """
        if run_id:
            return await self._storage.call(self._storage.state.run, run_id)
        active = await self._storage.call(self._storage.state.active_run)
        if active:
            return active
        runs = await self._storage.call(self._storage.state.runs)
        if not runs:
            raise NotFound("There is no run yet: create one with ravan-server create.")
        return runs[0]

    async def _give_time(self, run: Run) -> None:
        """A collecting round gets its whole time again: for a while its clients could not upload."""
        current = await self._storage.call(self._storage.state.current_round, run.run_id)
        if current and current.state is RoundState.COLLECTING and not run.options.is_async:
            deadline = self._clock() + run.options.deadline
            await self._storage.call(self._storage.state.extend_deadline, run.run_id, current.number, deadline)

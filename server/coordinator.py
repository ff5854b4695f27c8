"""What moves a run forward: opens rounds, selects devices, closes, aggregates, evaluates and publishes."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import structlog

from ravan.aggregate import Contribution, average
from ravan.bundle import INITIAL, Bundle, open_bundle
from ravan.cli.errors import explain_os_error
from ravan.errors import BundleError, RavanError
from ravan.runtime.adapter import write_adapter
from ravan.runtime.session import Evaluation, RuntimeOptions
from ravan.update import Update, decode, encode
from server.errors import NotFound, WrongState
from server.evaluation import HeldOut
from server.records import Assignment, AssignmentState, Round, RoundState, Run, RunState
from server.rounds import Facts, Step, next_step, selection_size
from server.settings import RunSettings, Weighting
from server.storage import Storage

log = structlog.get_logger()
IDLE_SECONDS = 1.0
RETRY_SECONDS = 5.0
ENDED = {RunState.FINISHED, RunState.STOPPED}


class Coordinator:
    """Runs the active run's rounds; the only writer of rounds.

    Every step reads the state afresh and ends in one transaction, so that a server killed anywhere and started again
    goes on with the same step.
    """

    def __init__(
        self, storage: Storage, runtime: RuntimeOptions | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._storage = storage
        self._runtime = runtime or RuntimeOptions()
        self._clock = clock
        self._bundles: dict[str, Bundle] = {}
        self._held_out: dict[str, HeldOut] = {}
        self._wake = asyncio.Event()
        self._changed = asyncio.Condition()

    async def create_run(self, settings: RunSettings) -> Run:
        """Starts a run from its settings.

        Raises:
            BundleError: the bundle is damaged.
            DataError: the held-out examples can't be read.
            WrongState: another run is active.
        """
        bundle = await asyncio.to_thread(open_bundle, settings.bundle.resolve())
        initial = bundle.path(INITIAL).read_bytes()
        decode(bundle.manifest.adapter, initial)
        run = Run(
            run_id=secrets.token_hex(6),
            state=RunState.ACTIVE,
            bundle_id=bundle.manifest.bundle_id,
            bundle_folder=str(bundle.folder),
            evaluation_file=str(settings.evaluation.resolve()) if settings.evaluation else None,
            options=settings.options,
            adapter=await asyncio.to_thread(self._storage.adapters.put, initial),
            created_at=self._clock(),
        )
        self._bundles[run.bundle_id] = bundle
        await self._load_held_out(run)
        await self._storage.call(self._storage.state.create_run, run)
        log.info("run created", run=run.run_id, bundle=run.bundle_id[:12], rounds=run.options.rounds)
        self.wake()
        return run

    def bundle(self, run: Run) -> Bundle:
        """The run's bundle, checked once per process.

        Raises:
            BundleError: it was moved or changed since the run began.
        """
        if run.bundle_id not in self._bundles:
            bundle = open_bundle(Path(run.bundle_folder))
            if bundle.manifest.bundle_id != run.bundle_id:
                raise BundleError(
                    f"{bundle.folder} holds another bundle than run {run.run_id} began with: put it back."
                )
            self._bundles[run.bundle_id] = bundle
        return self._bundles[run.bundle_id]

    def wake(self) -> None:
        """Says that something happened that may allow the next step."""
        self._wake.set()

    async def changed(self, timeout: float) -> None:
        """Waits until a step was taken or an update received, at most ``timeout`` seconds."""
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), timeout)

    async def serve(self, *, until_finished: bool = False) -> None:
        """Takes steps until cancelled, or until a run that was active has ended."""
        await self._resume()
        ended_after: float | None = None
        while True:
            self._wake.clear()
            run = await self._storage.call(self._storage.state.active_run)
            if run is None and ended_after is not None and until_finished:
                await asyncio.sleep(ended_after)  # so that every device hears that the run has finished
                return
            ended_after = 2 * run.options.poll_max + 1 if run else ended_after
            pause = IDLE_SECONDS if run is None else await self._step_or_explain(run)
            async with self._changed:
                self._changed.notify_all()
            if pause:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), pause)

    async def _step_or_explain(self, run: Run) -> float:
        """A step that fails for a reason outside the program is logged and tried again."""
        try:
            return await self.step(run)
        except RavanError as error:
            log.error("step failed", run=run.run_id, reason=str(error))
        except OSError as error:
            log.error("step failed", run=run.run_id, reason=str(explain_os_error(error)))
        return RETRY_SECONDS

    async def step(self, run: Run) -> float:
        """Takes the run's next step; returns how long to wait before the one after, at most, in seconds."""
        call, state = self._storage.call, self._storage.state
        if run.state is not RunState.ACTIVE:
            return IDLE_SECONDS
        if run.initial is None:
            await self._evaluate_initial(run)
        current = await call(state.current_round, run.run_id)
        facts = await self._facts(run, current)
        number = current.number if current else 0
        match next_step(run.options, facts):
            case Step.OPEN:
                opened = Round(run.run_id, number + 1, RoundState.SELECTING, run.adapter, self._clock())
                await call(state.open_round, opened)
            case Step.SELECT:
                await self._select(run, number)
            case Step.CLOSE:
                await call(state.close_round, run.run_id, number)
            case Step.ABANDON:
                await call(state.abandon, run.run_id, number, self._clock())
                log.warning("round abandoned", run=run.run_id, round=number, received=facts.received)
            case Step.PUBLISH:
                assert current is not None
                await self._publish(run, current)
            case Step.FINISH:
                await call(state.set_run_state, run.run_id, RunState.FINISHED)
                log.info("run finished", run=run.run_id, rounds=facts.published)
            case Step.WAIT:
                until = facts.deadline - facts.now if facts.deadline else IDLE_SECONDS
                return min(max(until, 0.05), IDLE_SECONDS)
        return 0.0

    async def _facts(self, run: Run, current: Round | None) -> Facts:
        call, state = self._storage.call, self._storage.state
        rounds = await call(state.rounds, run.run_id)
        parts: list[Assignment] = []
        present: list[str] = []
        if current and current.state is RoundState.COLLECTING:
            parts = await call(state.assignments, run.run_id, current.number)
        if current and current.state is RoundState.SELECTING:
            present = await self._present(run)
        return Facts(
            now=self._clock(),
            published=sum(r.state is RoundState.PUBLISHED for r in rounds),
            state=current.state if current else None,
            present=len(present),
            selected=len(parts),
            received=sum(p.state is AssignmentState.RECEIVED for p in parts),
            failed=sum(p.state is AssignmentState.FAILED for p in parts),
            deadline=current.deadline if current else None,
        )

    async def _present(self, run: Run) -> list[str]:
        """Devices that checked in recently enough to be expected back within a wait or two."""
        since = self._clock() - 2 * run.options.poll_max - 5
        return await self._storage.call(self._storage.state.present_devices, run.run_id, since)

    async def _select(self, run: Run, number: int) -> None:
        present = await self._present(run)
        generator = np.random.default_rng([run.options.seed, number])
        size = min(selection_size(run.options), len(present))
        chosen = sorted(str(d) for d in generator.choice(present, size, replace=False))
        deadline = self._clock() + run.options.deadline
        await self._storage.call(self._storage.state.select, run.run_id, number, chosen, deadline)
        log.info("devices selected", run=run.run_id, round=number, selected=size, present=len(present))

    async def _publish(self, run: Run, current: Round) -> None:
        call, state = self._storage.call, self._storage.state
        parts = await call(state.assignments, run.run_id, current.number)
        bundle = await asyncio.to_thread(self.bundle, run)
        adapter, sha256 = await asyncio.to_thread(self._aggregate, run, current, parts, bundle)
        published = 1 + sum(r.state is RoundState.PUBLISHED for r in await call(state.rounds, run.run_id))
        evaluation = None
        if published % run.options.evaluate_every == 0 or published >= run.options.rounds:
            evaluation = await self._evaluate(run, adapter)
        await call(state.publish, run.run_id, current.number, sha256, evaluation, self._clock())
        await asyncio.to_thread(self._write_files, run, bundle, current.number, adapter, evaluation)
        await self._drop_old_updates(run, current.number)
        measured = {"accuracy": round(evaluation.accuracy, 4)} if evaluation else {}
        log.info("round published", run=run.run_id, round=current.number, adapter=sha256[:12], **measured)

    def _aggregate(self, run: Run, current: Round, parts: list[Assignment], bundle: Bundle) -> tuple[Update, str]:
        spec, adapters, updates = bundle.manifest.adapter, self._storage.adapters, self._storage.updates
        by_examples = run.options.weighting is Weighting.EXAMPLES

        def contribution(part: Assignment) -> Contribution:
            sha256 = part.sha256
            assert sha256 is not None
            weight = float(max(part.report.examples, 1)) if by_examples else 1.0
            return Contribution(part.device_id, lambda: decode(spec, updates.get(sha256)), weight)

        base = decode(spec, adapters.get(current.base_adapter))
        received = [part for part in parts if part.state is AssignmentState.RECEIVED]
        adapter = average(spec, base, [contribution(part) for part in received])
        return adapter, adapters.put(encode(spec, adapter))

    def _write_files(
        self, run: Run, bundle: Bundle, number: int, adapter: Update, evaluation: Evaluation | None
    ) -> None:
        """Keeps the last and the best adapter as safetensors; the blobs remain the truth."""
        notes = {"run": run.run_id, "round": number}
        if evaluation:
            notes |= {"accuracy": evaluation.accuracy, "examples": evaluation.examples}
        best = best_round(self._storage.state.rounds(run.run_id))
        last_path = self._storage.adapter_path(run.run_id, best=False)
        last_path.parent.mkdir(parents=True, exist_ok=True)
        write_adapter(last_path, bundle.manifest, adapter, notes)
        if best and best.number == number:
            write_adapter(self._storage.adapter_path(run.run_id, best=True), bundle.manifest, adapter, notes)

    async def _drop_old_updates(self, run: Run, number: int) -> None:
        old = number - run.options.keep_updates
        if old < 1:
            return
        parts = await self._storage.call(self._storage.state.assignments, run.run_id)
        needed = {part.sha256 for part in parts if part.round > old}
        for part in parts:
            if part.round == old and part.sha256 and part.sha256 not in needed:
                self._storage.updates.drop(part.sha256)

    async def _evaluate(self, run: Run, adapter: Update) -> Evaluation | None:
        held_out = await self._load_held_out(run)
        if held_out is None:
            return None
        try:
            return await asyncio.to_thread(held_out.evaluate, adapter)
        except asyncio.CancelledError:
            held_out.stop()
            raise

    async def _evaluate_initial(self, run: Run) -> None:
        if run.evaluation_file is None:
            return
        bundle = await asyncio.to_thread(self.bundle, run)
        adapter = decode(bundle.manifest.adapter, self._storage.adapters.get(run.adapter))
        evaluation = await self._evaluate(run, adapter)
        if evaluation:
            await self._storage.call(self._storage.state.record_initial, run.run_id, evaluation)
            log.info("evaluated before the first round", run=run.run_id, accuracy=round(evaluation.accuracy, 4))

    async def _load_held_out(self, run: Run) -> HeldOut | None:
        if run.evaluation_file is None:
            return None
        if run.run_id not in self._held_out:
            bundle = await asyncio.to_thread(self.bundle, run)
            path, size = Path(run.evaluation_file), run.options.evaluation_batch
            self._held_out[run.run_id] = await asyncio.to_thread(HeldOut, bundle, path, size, self._runtime)
        return self._held_out[run.run_id]

    async def _resume(self) -> None:
        """After a restart, gives a collecting round its whole time again: its clients could not reach the server."""
        call, state = self._storage.call, self._storage.state
        run = await call(state.active_run)
        current = await call(state.current_round, run.run_id) if run else None
        if run and current:
            log.info("run resumed", run=run.run_id, round=current.number, state=str(current.state))
            if current.state is RoundState.COLLECTING:
                await call(state.extend_deadline, run.run_id, current.number, self._clock() + run.options.deadline)

    async def set_state(self, run_id: str, wanted: RunState) -> Run:
        """Pauses, resumes or stops a run.

        Raises:
            WrongState: the run has ended, or the state is not the operator's to set.
        """
        call, state = self._storage.call, self._storage.state
        run = await self.find_run(run_id)
        if run.state in ENDED or wanted is RunState.FINISHED:
            raise WrongState(f"Run {run.run_id} is {run.state} and can't become {wanted}: create a new run.")
        await call(state.set_run_state, run.run_id, wanted)
        self.wake()
        return await call(state.run, run.run_id)

    async def find_run(self, run_id: str) -> Run:
        """The run of this id, or the newest for an empty one.

        Raises:
            NotFound: there is none.
        """
        if run_id:
            return await self._storage.call(self._storage.state.run, run_id)
        runs = await self._storage.call(self._storage.state.runs)
        if not runs:
            raise NotFound("There is no run yet: create one with ravan-server create.")
        return runs[0]


def best_round(rounds: list[Round]) -> Round | None:
    """The published round with the highest accuracy; the earliest among equals."""
    evaluated = [r for r in rounds if r.evaluation is not None]
    return max(evaluated, key=lambda r: r.evaluation.accuracy if r.evaluation else 0.0, default=None)

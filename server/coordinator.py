"""What moves a run forward: opens rounds, selects devices, closes rounds and has them published."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Awaitable, Callable

import numpy as np
import structlog

from ravan.cli.errors import explain_os_error
from ravan.errors import RavanError
from ravan.faults import reached
from ravan.runtime.session import RuntimeOptions
from server import looks
from server.door import with_bounds
from server.latest import Latest
from server.pace import Pace
from server.peers import Term, leading
from server.publishing import Publisher
from server.records import Round, RoundState, Run, RunState
from server.rounds import Facts, Step, devices_needed, next_step, selection_size
from server.runs import Runs
from server.storage import Storage

log = structlog.get_logger()
IDLE_SECONDS = 1.0
RETRY_SECONDS = 5.0
ABANDONED_LIMIT = 5
SAY_SECONDS = 60.0


class Coordinator(Runs):
    """Runs the active run's rounds; the only writer of rounds, while its server leads.

    Every step reads the state afresh and ends in one transaction, so that a server killed anywhere and started again,
    or another one, goes on with the same step.

    Attributes:
        steps: how often a step was taken, or may have been taken by another server or the operator.
        latest: the adapter that the newest round starts from.
    """

    def __init__(
        self, storage: Storage, runtime: RuntimeOptions | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(storage, runtime, clock)
        self.pace = Pace(storage, clock)
        self._term: Term | None = None
        self._followed: tuple[str, int] | None = None
        self._ended_after: float | None = None
        self.latest = Latest(storage.adapters)
        self._publisher = Publisher(storage, self.latest, self.bundles, self._examiner, self.exports)
        self._said = 0.0
        self._changed = asyncio.Condition()
        self.steps = 0

    async def changed(self, timeout: float) -> None:
        """Waits until a step was taken or an update received, at most ``timeout`` seconds."""
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), timeout)

    async def stepped(self, seen: int) -> None:
        """Waits until there are other ``steps`` than those that the caller has seen."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.steps != seen)

    async def serve(self, *, until_finished: bool = False) -> None:
        """Takes steps while this server leads, until cancelled, or until a run that was active has ended."""
        keeping = asyncio.create_task(self._storage.peers.keep(self._wake.set))
        try:
            while not await self._explained(self._turn(until_finished=until_finished)):
                pass
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    async def _turn(self, *, until_finished: bool) -> bool:
        """Takes the next step if this server leads, and waits; whether to end, as a run that was active has ended."""
        call, state = self._storage.call, self._storage.state
        self._wake.clear()
        await self._note_term()
        await self.pace.count()
        run, current, facts = await call(looks.turn, state, self._clock(), self._longest_wait)
        if run is None and self._ended_after is not None and until_finished:
            ended_after, self._ended_after = self._ended_after, None
            await asyncio.sleep(ended_after)  # so that every device hears that the run has finished
            return await call(state.active_run) is None
        self._ended_after = 2 * self._longest_wait(run) + 1 if run else self._ended_after
        if run and not self._term:
            await self._follow(run)
        pause = await self._step(run, current, facts) if run and self._term else IDLE_SECONDS
        self.steps += not (pause and run and run.state is RunState.ACTIVE and self._term)
        await self._tell(stepped=not pause)
        if pause:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)
        return False

    async def _follow(self, run: Run) -> None:
        """What a server that does not lead does for itself after each round."""
        current = await self._storage.call(self._storage.state.current_round, run.run_id)
        if current and (run.run_id, current.number) != self._followed:
            self._followed = run.run_id, current.number
            await self._storage.call(self._storage.drop_partials)

    async def _tell(self, *, stepped: bool) -> None:
        """Lets those who watch look again, here and on the other servers."""
        async with self._changed:
            self._changed.notify_all()
        if stepped or self._called:
            self._called = False
            await self._storage.peers.ring()

    async def _explained(self, turn: Awaitable[bool]) -> bool:
        """A turn that fails for a reason outside the program is logged, and taken again."""
        try:
            return await turn
        except RavanError as error:
            log.error("step failed", code=error.code, reason=str(error))
        except OSError as error:
            log.error("step failed", reason=str(explain_os_error(error)))
        except Exception:  # a defect of ours must not take the devices' calls down with it
            log.exception("step failed")
        await asyncio.sleep(RETRY_SECONDS)
        return False

    async def step(self, run: Run) -> float:
        """Takes the run's next step; returns how long to wait before the one after, at most, in seconds."""
        await self.pace.count()
        call, state = self._storage.call, self._storage.state
        at = await call(looks.facts, state, run, self._clock(), self._longest_wait(run))
        return await self._step(run, *at)

    async def _step(self, run: Run, current: Round | None, facts: Facts | None) -> float:
        call, state = self._storage.call, leading(self._storage.peers)
        if run.state is not RunState.ACTIVE or facts is None:
            return IDLE_SECONDS
        if run.initial is None and run.evaluation_file:
            await self._evaluate_initial(run)
        number = current.number if current else 0
        match next_step(run.options, facts):
            case Step.OPEN:
                await self._open(run, number + 1)
            case Step.SELECT:
                await self._select(run, number, facts.present)
            case Step.CLOSE:
                await self._close(run, number)
            case Step.ABANDON:
                await self._abandon(run, number, facts)
            case Step.PUBLISH:
                assert current is not None
                await self._publisher.publish(run, current, self._clock())
            case Step.FINISH:
                await call(state.set_run_state, run.run_id, RunState.FINISHED, self._clock())
                reached("run-finished")
                log.info("run finished", run=run.run_id, rounds=facts.published)
            case Step.WAIT:
                return await self._wait(run, facts)
        return 0.0

    async def _wait(self, run: Run, facts: Facts) -> float:
        """Seconds until something may have changed."""
        self._say_what_is_missing(run, facts)
        until = facts.deadline - facts.now if facts.deadline else IDLE_SECONDS
        if until > run.options.deadline:  # the clock was set back: the round must not wait until it comes round again
            await self._give_time(run)
        return min(max(until, 0.05), IDLE_SECONDS)

    async def _open(self, run: Run, number: int) -> None:
        rounds = await self._storage.call(self._storage.state.rounds, run.run_id)
        first = RoundState.COLLECTING if run.options.is_async else RoundState.SELECTING
        opened = Round(run.run_id, number, first, run.adapter, self._clock())
        bounded = await with_bounds(self._storage, run.options, opened, rounds)
        await self._storage.call(leading(self._storage.peers).open_round, bounded)
        reached("round-opened")

    async def _close(self, run: Run, number: int) -> None:
        call, state = self._storage.call, leading(self._storage.peers)
        if run.options.is_async:
            await call(state.close_buffer, run.run_id, number, run.options.buffer)
        else:
            await call(state.close_round, run.run_id, number)
        reached("round-closed")

    async def _evaluate_initial(self, run: Run) -> None:
        spec = (await self.bundles.of(run)).manifest.adapter
        evaluation = await self._examiner.evaluate(run, self._publisher.adapter(run, spec))
        if evaluation:
            await self._storage.call(leading(self._storage.peers).record_initial, run.run_id, evaluation)
            figures = {name: round(value, 4) for name, value in evaluation.figures.items()}
            log.info("evaluated before the first round", run=run.run_id, **figures)

    def _longest_wait(self, run: Run) -> float:
        return self.pace.last((run.options.poll_min, run.options.poll_max))[1]

    async def _select(self, run: Run, number: int, present: tuple[str, ...]) -> None:
        generator = np.random.default_rng([run.options.seed, number])
        size = min(selection_size(run.options), len(present))
        chosen = sorted(str(d) for d in generator.choice(present, size, replace=False))
        deadline = self._clock() + run.options.deadline
        await self._storage.call(leading(self._storage.peers).select, run.run_id, number, chosen, deadline)
        reached("devices-selected")
        log.info("devices selected", run=run.run_id, round=number, selected=size, present=len(present))

    async def _abandon(self, run: Run, number: int, facts: Facts) -> None:
        """Ends a round without a result; a run that only does that is paused for the operator to look at."""
        call, state = self._storage.call, leading(self._storage.peers)
        await call(state.abandon, run.run_id, number, self._clock())
        await call(self._storage.drop_partials)
        log.warning("round abandoned", run=run.run_id, round=number, received=facts.received, failed=facts.failed)
        last = [r.state for r in await call(state.rounds, run.run_id)]
        in_a_row = len(list(itertools.takewhile(lambda s: s is RoundState.ABANDONED, reversed(last))))
        if in_a_row % ABANDONED_LIMIT == 0:
            await call(state.set_run_state, run.run_id, RunState.PAUSED, self._clock())
            log.error("run paused: look at the devices' failures, then resume it", run=run.run_id, abandoned=in_a_row)

    def _say_what_is_missing(self, run: Run, facts: Facts) -> None:
        """A round that waits for devices says so once a minute."""
        if facts.state is RoundState.SELECTING and self._clock() - self._said >= SAY_SECONDS:
            self._said = self._clock()
            log.info(
                "waiting for devices", run=run.run_id, present=len(facts.present), needed=devices_needed(run.options)
            )

    async def _note_term(self) -> None:
        """A server that begins to lead goes on with the run; its round gets time again if nobody was there before."""
        if self._storage.peers.term is self._term:
            return
        self._term = self._storage.peers.term
        run = await self._storage.call(self._storage.state.active_run)
        if run and self._term:
            log.info("run resumed", run=run.run_id, state=str(run.state))
            if self._term.was_vacant:
                await self._give_time(run)

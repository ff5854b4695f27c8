"""From the received updates of a closed round to the run's new adapter."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial

import structlog

from ravan.aggregate import Contribution
from ravan.bundle import Bundle
from ravan.faults import reached
from ravan.runtime.session import Evaluation
from ravan.server_optimizer import decode_memory, encode_memory
from ravan.spec import AdapterSpec
from ravan.staleness import carried_over
from ravan.update import Update, decode, encode
from ravan.wire import unpack
from server.best import is_best
from server.bundles import Bundles
from server.evaluation import Examiner
from server.exports import Exports
from server.latest import Latest
from server.peers import leading
from server.records import Assignment, Round, RoundState, Run
from server.settings import Weighting
from server.state import State
from server.storage import Storage

log = structlog.get_logger()


class Publisher:
    """Aggregates, evaluates and publishes a round.

    Everything before the last transaction can be done again with the same result, to the bit: a server killed in
    between does it again.
    """

    def __init__(
        self, storage: Storage, latest: Latest, bundles: Bundles, examiner: Examiner, exports: Exports
    ) -> None:
        self._storage = storage
        self._latest = latest
        self._exports = exports
        self._bundles = bundles
        self._examiner = examiner
        self._dropped: dict[str, int] = {}

    async def publish(self, run: Run, current: Round, now: float) -> None:
        """Makes what the rule and the server optimizer make of the round's updates the run's adapter."""
        call, state = self._storage.call, leading(self._storage.peers)
        bundle = await self._bundles.of(run)
        parts = await call(self._storage.state.counted, run.run_id, current.number)
        rounds = await call(self._storage.state.rounds, run.run_id)
        earlier = [r for r in rounds if r.state is RoundState.PUBLISHED]
        remembered = earlier[-1].optimizer_memory if earlier else None
        spec = bundle.manifest.adapter
        bases = await asyncio.to_thread(self._bases, spec, current, rounds, parts)
        combined = await asyncio.to_thread(self._aggregate, run, spec, current, parts, bases)
        reached("updates-folded")
        base = bases[current.number]
        adapter, memory = await asyncio.to_thread(self._step, run, spec, base, combined, remembered)
        reached("memory-stored")
        sha256, evaluation = await asyncio.gather(
            asyncio.to_thread(self._store, spec, adapter), self._examine(run, bundle, current, earlier, adapter)
        )
        await call(state.publish, run.run_id, current.number, sha256, evaluation, now, memory)
        reached("round-published")
        if remembered and remembered != memory:
            self._storage.optimizer.drop(remembered)
        await self._drop_old_updates(run, current.number)
        await call(self._storage.drop_partials)
        reached("updates-dropped")
        measured = {name: round(value, 4) for name, value in evaluation.figures.items()} if evaluation else {}
        heads = f"{int(combined.heads.sum())}/{combined.heads.size}"
        log.info("round published", run=run.run_id, round=current.number, adapter=sha256[:12], heads=heads, **measured)

    def _store(self, spec: AdapterSpec, adapter: Update) -> str:
        """Makes the next adapter durable; returns its sha256."""
        data = encode(spec, adapter)
        sha256 = self._storage.adapters.put(data)
        reached("adapter-stored")
        self._latest.keep(sha256, data)
        return sha256

    async def _examine(
        self, run: Run, bundle: Bundle, current: Round, earlier: Sequence[Round], adapter: Update
    ) -> Evaluation | None:
        """Evaluates the next adapter if the run wants that now, and writes its files."""
        count, evaluation = len(earlier) + 1, None
        if count % run.options.evaluate_every == 0 or count >= run.options.rounds:
            evaluation = await self._examiner.evaluate(run, adapter)
        done = Round(run.run_id, current.number, RoundState.PUBLISHED, "", 0.0, evaluation=evaluation)
        best = is_best(done, earlier, run.options.metric)
        await asyncio.to_thread(self._exports.write, run, bundle, done, adapter, best=best)
        reached("files-published")
        return evaluation

    def adapter(self, run: Run, spec: AdapterSpec) -> Update:
        """The run's current adapter."""
        return decode(spec, self._storage.adapters.get(run.adapter))

    def _aggregate(
        self, run: Run, spec: AdapterSpec, current: Round, parts: Sequence[Assignment], bases: Mapping[int, Update]
    ) -> Update:
        """What the rule makes of the parts that count in the round; ``bases`` by the round that devices began from."""
        by_examples = run.options.weighting is Weighting.EXAMPLES
        contributions = [
            Contribution(
                part.device_id if part.sequence is None else f"{part.sequence:020}",
                partial(self._load, run, spec, current, part, bases),
                float(max(part.report.examples, 1)) if by_examples else 1.0,
            )
            for part in parts
        ]
        return run.options.rule()(spec, bases[current.number], contributions)

    def _step(
        self, run: Run, spec: AdapterSpec, base: Update, combined: Update, remembered: str | None
    ) -> tuple[Update, str | None]:
        """The next adapter, and the blob of what the server optimizer remembers after it."""
        before = decode_memory(spec, self._storage.optimizer.get(remembered)) if remembered else ()
        optimizer = run.options.optimizer_of_server()
        adapter, after = optimizer.step(spec, base, combined, before)
        return adapter, self._storage.optimizer.put(encode_memory(spec, after)) if after else None

    def _bases(
        self, spec: AdapterSpec, current: Round, rounds: Sequence[Round], parts: Sequence[Assignment]
    ) -> dict[int, Update]:
        """The adapters that devices began from, by round; the round's own among them."""
        older = {part.round for part in parts} - {current.number}
        bases = {
            r.number: decode(spec, self._storage.adapters.get(r.base_adapter)) for r in rounds if r.number in older
        }
        return {**bases, current.number: self._latest.update(spec, current.base_adapter)}

    def _load(
        self, run: Run, spec: AdapterSpec, current: Round, part: Assignment, bases: Mapping[int, Update]
    ) -> Update:
        assert part.sha256 is not None
        update = unpack(spec, run.options.wire, bases[part.round], self._storage.updates.get(part.sha256))
        return carried_over(update, bases[part.round], bases[current.number], current.number - part.round)

    async def _drop_old_updates(self, run: Run, number: int) -> None:
        """Those that counted in rounds that are over for long; a server looks through all of them once."""
        old = number - run.options.keep_updates
        after = self._dropped.get(run.run_id)
        counted = await self._storage.call(_counted, self._storage.state, run.run_id, after, old)
        there = await asyncio.to_thread(self._storage.updates.names) if counted else ()
        for sha256 in counted.intersection(there):
            await self._storage.forget_update(sha256, run.run_id, old)
        self._dropped[run.run_id] = old


def _counted(state: State, run_id: str, after: int | None, until: int) -> set[str]:
    """The updates that counted in rounds later than ``after``, up to ``until``."""
    if after is None:
        parts = [p for p in state.assignments(run_id) if p.counts_in is not None and p.counts_in <= until]
    else:
        parts = [part for number in range(after + 1, until + 1) for part in state.counted(run_id, number)]
    return {part.sha256 for part in parts if part.sha256}

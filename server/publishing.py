"""From the received updates of a closed round to the run's new adapter."""

import asyncio
import math
from collections.abc import Sequence
from functools import partial

import structlog

from ravan.aggregate import Contribution
from ravan.bundle import Bundle
from ravan.inputs import Metric
from ravan.runtime.adapter import write_adapter
from ravan.runtime.session import Evaluation
from ravan.server_optimizer import decode_memory, encode_memory
from ravan.spec import AdapterSpec
from ravan.update import Update, decode, encode
from ravan.wire import unpack
from server.bundles import Bundles
from server.evaluation import Examiner
from server.records import Assignment, AssignmentState, Round, RoundState, Run
from server.settings import Weighting
from server.storage import Storage

log = structlog.get_logger()


class Publisher:
    """Aggregates, evaluates and publishes a round.

    Everything before the last transaction can be done again with the same result, to the bit: a server killed in
    between does it again.
    """

    def __init__(self, storage: Storage, bundles: Bundles, examiner: Examiner) -> None:
        self._storage = storage
        self._bundles = bundles
        self._examiner = examiner

    async def publish(self, run: Run, current: Round, now: float) -> None:
        """Makes what the rule and the server optimizer make of the round's updates the run's adapter."""
        call, state = self._storage.call, self._storage.state
        bundle = await self._bundles.of(run)
        parts = await call(state.assignments, run.run_id, current.number)
        earlier = [r for r in await call(state.rounds, run.run_id) if r.state is RoundState.PUBLISHED]
        remembered = earlier[-1].optimizer_memory if earlier else None
        spec = bundle.manifest.adapter
        combined = await asyncio.to_thread(self._aggregate, run, spec, current, parts)
        adapter, memory = await asyncio.to_thread(self._step, run, spec, current, combined, remembered)
        sha256 = await asyncio.to_thread(self._storage.adapters.put, encode(spec, adapter))
        count, evaluation = len(earlier) + 1, None
        if count % run.options.evaluate_every == 0 or count >= run.options.rounds:
            evaluation = await self._examiner.evaluate(run, adapter)
        done = Round(run.run_id, current.number, RoundState.PUBLISHED, "", 0.0, evaluation=evaluation)
        await asyncio.to_thread(
            self._write_files, run, bundle, done, adapter, best=is_best(done, earlier, run.options.metric)
        )
        await call(state.publish, run.run_id, current.number, sha256, evaluation, now, memory)
        if remembered and remembered != memory:
            self._storage.optimizer.drop(remembered)
        await self._drop_old_updates(run, current.number)
        measured = {name: round(value, 4) for name, value in evaluation.figures.items()} if evaluation else {}
        heads = f"{int(combined.heads.sum())}/{combined.heads.size}"
        log.info("round published", run=run.run_id, round=current.number, adapter=sha256[:12], heads=heads, **measured)

    def adapter(self, run: Run, spec: AdapterSpec) -> Update:
        """The run's current adapter."""
        return decode(spec, self._storage.adapters.get(run.adapter))

    def _aggregate(self, run: Run, spec: AdapterSpec, current: Round, parts: Sequence[Assignment]) -> Update:
        base, by_examples = self._base(spec, current), run.options.weighting is Weighting.EXAMPLES
        contributions = [
            Contribution(
                part.device_id,
                partial(self._load, run, spec, base, part.sha256),
                float(max(part.report.examples, 1)) if by_examples else 1.0,
            )
            for part in parts
            if part.state is AssignmentState.RECEIVED and part.sha256
        ]
        return run.options.rule()(spec, base, contributions)

    def _step(
        self, run: Run, spec: AdapterSpec, current: Round, combined: Update, remembered: str | None
    ) -> tuple[Update, str | None]:
        """The next adapter, and the blob of what the server optimizer remembers after it."""
        before = decode_memory(spec, self._storage.optimizer.get(remembered)) if remembered else ()
        optimizer = run.options.optimizer_of_server()
        adapter, after = optimizer.step(spec, self._base(spec, current), combined, before)
        return adapter, self._storage.optimizer.put(encode_memory(spec, after)) if after else None

    def _base(self, spec: AdapterSpec, current: Round) -> Update:
        return decode(spec, self._storage.adapters.get(current.base_adapter))

    def _load(self, run: Run, spec: AdapterSpec, base: Update, sha256: str) -> Update:
        return unpack(spec, run.options.wire, base, self._storage.updates.get(sha256))

    def _write_files(self, run: Run, bundle: Bundle, done: Round, adapter: Update, *, best: bool) -> None:
        """Keeps the last and the best adapter as safetensors, before the round counts as published."""
        notes: dict[str, object] = {"run": run.run_id, "round": done.number}
        if done.evaluation:
            notes |= {**done.evaluation.figures, "examples": done.evaluation.examples}
        for kind in (False, True) if best else (False,):
            path = self._storage.adapter_path(run.run_id, best=kind)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_adapter(path, bundle.manifest, adapter, notes)

    async def _drop_old_updates(self, run: Run, number: int) -> None:
        old = number - run.options.keep_updates
        parts = await self._storage.call(self._storage.state.assignments, run.run_id)
        for sha256 in {part.sha256 for part in parts if part.round <= old and part.sha256}:
            async with self._storage.hold(sha256):
                if not await self._storage.call(self._storage.state.names_update, sha256, run.run_id, old):
                    self._storage.updates.drop(sha256)


def best_round(rounds: Sequence[Round], metric: Metric | None = None) -> Round | None:
    """The published round that is best by the metric, the earliest among equals; without evaluations the last."""
    published = [r for r in rounds if r.state is RoundState.PUBLISHED]
    evaluated = [r for r in published if r.evaluation is not None]
    if not evaluated:
        return published[-1] if published else None
    return max(evaluated, key=lambda r: _score(r.evaluation, metric))


def is_best(done: Round, earlier: Sequence[Round], metric: Metric | None = None) -> bool:
    """Whether a round is the best once it is published."""
    return best_round([*earlier, done], metric) is done


def _score(evaluation: Evaluation | None, metric: Metric | None) -> float:
    """Higher is better."""
    if evaluation is None:
        return -math.inf
    return -evaluation.loss if metric in (Metric.PERPLEXITY, Metric.LOSS) else evaluation.accuracy

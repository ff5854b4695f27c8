"""A run's best and last adapter as safetensors: files in a folder, or made when asked for from a database."""

import asyncio
from pathlib import Path

from ravan.bundle import Bundle
from ravan.files import link_atomically, write_atomically
from ravan.runtime.adapter import adapter_bytes
from ravan.update import Update, decode
from server.best import best_round
from server.bundles import Bundles
from server.errors import NotFound
from server.records import Round, RoundState, Run
from server.storage import Storage


class Exports:
    """Writes and reads published adapters."""

    def __init__(self, storage: Storage, bundles: Bundles) -> None:
        self._storage = storage
        self._bundles = bundles

    def write(self, run: Run, bundle: Bundle, done: Round, adapter: Update, *, best: bool) -> None:
        """Keeps the last and the best adapter as files, before the round counts as published."""
        last, is_best = (self._storage.adapter_path(run.run_id, best=kind) for kind in (False, True))
        if last is None:
            return
        last.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(last, adapter_bytes(bundle.manifest, adapter, _notes(run, done)))
        if best and is_best is not None:
            link_atomically(last, is_best)

    async def read(self, run: Run, *, best: bool) -> bytes:
        """The bytes of the best or last adapter's file.

        Raises:
            NotFound: no round was published.
        """
        path = self._storage.adapter_path(run.run_id, best=best)
        if path is None:
            return await self._make(run, best=best)
        try:
            return await asyncio.to_thread(Path.read_bytes, path)
        except FileNotFoundError:
            raise _nothing(run) from None

    async def _make(self, run: Run, *, best: bool) -> bytes:
        rounds = await self._storage.call(self._storage.state.rounds, run.run_id)
        published = [r for r in rounds if r.state is RoundState.PUBLISHED]
        if not published:
            raise _nothing(run)
        wanted = best_round(published, run.options.metric) if best else published[-1]
        assert wanted is not None
        assert wanted.adapter is not None
        manifest = (await self._bundles.of(run)).manifest
        data = await asyncio.to_thread(self._storage.adapters.get, wanted.adapter)
        return adapter_bytes(manifest, decode(manifest.adapter, data), _notes(run, wanted))


def _notes(run: Run, done: Round) -> dict[str, object]:
    evaluation = done.evaluation
    figures = {**evaluation.figures, "examples": evaluation.examples} if evaluation else {}
    return {"run": run.run_id, "round": done.number, **figures}


def _nothing(run: Run) -> NotFound:
    return NotFound(f"Run {run.run_id} has not published such an adapter yet: wait for a round.")

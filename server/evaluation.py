"""Held-out loss and accuracy of a global adapter, through the bundle's eval.onnx."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from ravan.bundle import Bundle
from ravan.errors import SettingsError
from ravan.runtime.examples import in_order_of_size, read_examples
from ravan.runtime.footprint import fitting
from ravan.runtime.memory import available_memory
from ravan.runtime.session import Batch, Evaluation, Evaluator, RuntimeOptions
from ravan.update import Update
from server.bundles import Bundles
from server.records import Run
from server.settings import RunOptions


class HeldOut:
    """A run's held-out examples and the session that evaluates adapters on them."""

    def __init__(self, bundle: Bundle, path: Path, batch_size: int, options: RuntimeOptions) -> None:
        self._spec = bundle.manifest.adapter
        self._batches: Sequence[Batch] = list(in_order_of_size(read_examples(bundle, path), batch_size))
        self._evaluator = Evaluator(bundle, fitting(bundle.manifest, options, available_memory()))
        self._stopped = threading.Event()

    def evaluate(self, adapter: Update) -> Evaluation:
        """Loss and accuracy of the model with this adapter."""
        return self._evaluator.evaluate(adapter.trainables(self._spec), self._until_stopped())

    def stop(self) -> None:
        """Lets an evaluation on another thread end after its batch, with a result that nobody should use."""
        self._stopped.set()

    def _until_stopped(self) -> Iterator[Batch]:
        for batch in self._batches:
            if self._stopped.is_set():
                return
            yield batch


class Examiner:
    """Evaluates adapters on the held-out examples of their run; keeps those of one run at a time."""

    def __init__(self, bundles: Bundles, runtime: RuntimeOptions) -> None:
        self._bundles = bundles
        self._runtime = runtime
        self._loaded: tuple[str, HeldOut] | None = None

    async def load(self, run: Run) -> HeldOut | None:
        """The run's held-out examples, None if it has none.

        Raises:
            DataError: they can't be read.
        """
        if run.evaluation_file is None:
            return None
        if self._loaded is None or self._loaded[0] != run.run_id:
            self._loaded = None
            bundle, path = await self._bundles.of(run), await self._bundles.examples_of(run)
            assert path is not None
            loaded = await asyncio.to_thread(HeldOut, bundle, path, run.options.evaluation_batch, self._runtime)
            self._loaded = run.run_id, loaded
        return self._loaded[1]

    async def evaluate(self, run: Run, adapter: Update) -> Evaluation | None:
        """Loss and accuracy, None for a run without held-out examples; can be cancelled between batches."""
        held_out = await self.load(run)
        if held_out is None:
            return None
        try:
            return await asyncio.to_thread(held_out.evaluate, adapter)
        except asyncio.CancelledError:
            held_out.stop()
            raise


def with_metric(options: RunOptions, bundle: Bundle) -> RunOptions:
    """The options with the metric that suits the bundle's task, unless one is given.

    Raises:
        SettingsError: the given one means nothing for the bundle's loss.
    """
    custom = bundle.manifest.custom
    if custom and options.metric and options.metric not in custom.loss.metrics:
        known = " or ".join(custom.loss.metrics)
        raise SettingsError(f"--metric {options.metric} means nothing for a {custom.loss}: use {known}.")
    return options if options.metric else options.model_copy(update={"metric": bundle.manifest.metric})

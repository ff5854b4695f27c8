"""Held-out accuracy of a global adapter, through the bundle's eval.onnx."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from ravan.bundle import Bundle
from ravan.runtime.session import Batch, Evaluation, Evaluator, RuntimeOptions
from ravan.runtime.text import TextBatches, read_text_data
from ravan.update import Update


class HeldOut:
    """A run's held-out examples and the session that evaluates adapters on them."""

    def __init__(self, bundle: Bundle, path: Path, batch_size: int, options: RuntimeOptions) -> None:
        data = read_text_data(path, bundle.manifest.labels)
        self._spec = bundle.manifest.adapter
        batches = TextBatches(bundle).in_order_of_length(data.examples, batch_size)
        self._batches: Sequence[Batch] = list(batches)
        self._evaluator = Evaluator(bundle, options)
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

"""Where local runs happen: one at a time in a process, with the bundle's session kept between them."""

import threading

from ravan.bundle import Bundle
from ravan.runtime.session import RuntimeOptions, TrainStep
from ravan.runtime.text import TextBatches


class Workshop:
    """The session and tokenizer of the bundle in use; ``turn`` is held by the device that trains."""

    def __init__(self, options: RuntimeOptions) -> None:
        self.turn = threading.Lock()
        self._options = options
        self._held: tuple[str, TrainStep, TextBatches] | None = None

    def tools(self, bundle: Bundle) -> tuple[TrainStep, TextBatches]:
        """The training step and batches of a bundle; those of another bundle are let go first."""
        bundle_id = bundle.manifest.bundle_id
        if self._held is None or self._held[0] != bundle_id:
            self._held = None
            self._held = bundle_id, TrainStep(bundle, self._options), TextBatches(bundle)
        return self._held[1], self._held[2]

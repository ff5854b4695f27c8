"""Where local runs happen: one at a time in a process, with the bundle's sessions kept between them."""

import threading
from dataclasses import dataclass
from pathlib import Path

import structlog

from edge.hidden import HiddenExamples, HiddenStates
from ravan.bundle import PREFIX, Bundle
from ravan.errors import EnvironmentProblem
from ravan.runtime.examples import Examples
from ravan.runtime.footprint import fitting, least_memory
from ravan.runtime.memory import available_memory
from ravan.runtime.session import RuntimeOptions, TrainStep

log = structlog.get_logger()


@dataclass(frozen=True)
class _Held:
    """What is loaded, and of which bundle."""

    bundle_id: str
    step: TrainStep
    states: HiddenStates | None


class Workshop:
    """The sessions of the bundle in use; ``turn`` is held by the device that trains.

    Attributes:
        turn: to be held while a session is used.
    """

    def __init__(self, options: RuntimeOptions, cache: Path, cache_quota: int) -> None:
        self.turn = threading.Lock()
        self._options, self._cache, self._cache_quota = options, cache, cache_quota
        self._held: _Held | None = None

    def step(self, bundle: Bundle) -> TrainStep:
        """The training step of a bundle; another bundle's is let go first.

        Raises:
            EnvironmentProblem: the machine has less memory than training takes.
        """
        return self._hold(bundle).step

    def prepared(self, bundle: Bundle, examples: Examples) -> Examples:
        """The examples as the bundle's train.onnx takes them: with the frozen prefix's hidden states if it has one."""
        states = self._hold(bundle).states
        return examples if states is None else HiddenExamples(examples, states)

    def _hold(self, bundle: Bundle) -> _Held:
        bundle_id = bundle.manifest.bundle_id
        if self._held is None or self._held.bundle_id != bundle_id:
            if self._held and self._held.states:
                self._held.states.close()
            self._held = None
            available = available_memory()
            require_memory(bundle, available)
            options = fitting(bundle.manifest, self._options, available)
            if options != self._options:
                log.warning("weights stay in their file", reason="too little memory for fast copies: steps are slower")
            states = None
            if PREFIX in bundle.manifest.files:
                states = HiddenStates(bundle, options, self._cache, self._cache_quota)
            self._held = _Held(bundle_id, TrainStep(bundle, options), states)
        return self._held


def require_memory(bundle: Bundle, available: int | None) -> None:
    """Refuses a bundle that needs more memory than there is, before anything is loaded.

    Raises:
        EnvironmentProblem: says what is needed and available, and which export would need less.
    """
    needed = least_memory(bundle.manifest)
    if available is not None and available < needed:
        raise EnvironmentProblem(
            f"Training takes {needed / 1e6:.0f} MB at least and {available / 1e6:.0f} MB are free: free some, or ask "
            "the operator to export with --precision int8, --top-layers or a lower --activation-memory."
        )

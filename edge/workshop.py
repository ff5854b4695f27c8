"""Where local runs happen: the bundle's sessions, kept between them; used by one thread at a time."""

from dataclasses import dataclass
from pathlib import Path

import structlog

from edge.hidden import HiddenExamples, HiddenStates
from edge.runtimes import Runtime, Runtimes
from edge.steps import Step, open_step
from ravan.bundle import PREFIX, Bundle
from ravan.errors import EnvironmentProblem
from ravan.room import ORT_TRAINING, least_memory
from ravan.runtime.examples import Examples
from ravan.runtime.footprint import fitting
from ravan.runtime.memory import available_memory
from ravan.runtime.session import RuntimeOptions

log = structlog.get_logger()


@dataclass(frozen=True)
class _Held:
    """What is known of a bundle in use, and what of it is loaded beside the step."""

    bundle_id: str
    options: RuntimeOptions
    states: HiddenStates | None

    def close(self) -> None:
        if self.states:
            self.states.close()


@dataclass(frozen=True)
class _Loaded:
    """A training step, for heads in so many of the last layers."""

    layers: int
    step: Step


class Workshop:
    """The sessions of the bundle in use, in ``most_memory`` bytes at most, 0 for what the machine has.

    Attributes:
        runtimes: what the training step may run on.
    """

    def __init__(
        self,
        options: RuntimeOptions,
        cache: Path,
        cache_quota: int,
        runtimes: Runtimes | None = None,
        most_memory: int = 0,
    ) -> None:
        self.runtimes = runtimes or Runtimes()
        self._options, self._cache, self._cache_quota = options, cache, cache_quota
        self._most_memory = most_memory
        self._held: _Held | None = None
        self._loaded: _Loaded | None = None

    def step(self, bundle: Bundle, layers: int | None = None) -> Step:
        """The training step of a bundle; another bundle's is let go first.

        Only heads in so many of the last ``layers`` need gradients, None for all: where the bundle has a graph for
        that, its backward pass ends below them.

        Raises:
            EnvironmentProblem: the machine has less memory than training takes.
        """
        wanted, held = layers or len(bundle.manifest.adapter.layers), self._hold(bundle)
        if self._loaded is None or self._loaded.layers != wanted:
            self._unload()
            self._loaded = _Loaded(wanted, open_step(self.runtimes, bundle, held.options, wanted))
            log.info("step loaded", bundle=held.bundle_id[:12], layers=wanted)
        return self._loaded.step

    def close(self) -> None:
        """Lets go of what is loaded."""
        self._unload()
        held, self._held = self._held, None
        if held:
            held.close()

    def _unload(self) -> None:
        loaded, self._loaded = self._loaded, None
        if loaded:
            loaded.step.close()

    def prepared(self, bundle: Bundle, examples: Examples) -> Examples:
        """The examples as the bundle's train.onnx takes them: with the frozen prefix's hidden states if it has one."""
        states = self._hold(bundle).states
        return examples if states is None else HiddenExamples(examples, states)

    def _hold(self, bundle: Bundle) -> _Held:
        bundle_id = bundle.manifest.bundle_id
        if self._held is None or self._held.bundle_id != bundle_id:
            self.close()
            available, runtime = usable_memory(self._most_memory), self.runtimes.choose(bundle.manifest)
            require_memory(bundle, available, runtime)
            options = fitting(bundle.manifest, self._options, available)
            if options != self._options:
                log.warning("weights stay in their file", reason="too little memory for fast copies: steps are slower")
            states = None
            if PREFIX in bundle.manifest.files:
                states = HiddenStates(bundle, options, self._cache, self._cache_quota)
            self._held = _Held(bundle_id, options, states)
            log.info("bundle opened", bundle=bundle_id[:12], runtime=str(runtime))
        return self._held


def usable_memory(most: int) -> int | None:
    """Bytes that training may take: ``most``, 0 for no limit, or what the machine has left if that is less."""
    amounts = [amount for amount in (available_memory(), most or None) if amount is not None]
    return min(amounts, default=None)


def require_memory(bundle: Bundle, available: int | None, runtime: Runtime = Runtime.ONNXRUNTIME) -> None:
    """Refuses a bundle that needs more memory than there is, before anything is loaded.

    Raises:
        EnvironmentProblem: says what is needed and available, and which export would need less.
    """
    manifest = bundle.manifest
    with_ort_training = runtime is Runtime.ORT_TRAINING
    needed = manifest.memory.get(ORT_TRAINING, 0) if with_ort_training else least_memory(manifest)
    if available is not None and available < needed:
        raise EnvironmentProblem(
            f"Training takes {needed / 1e6:.0f} MB at least and {available / 1e6:.0f} MB are free: free some, or ask "
            "the operator to export with --precision int8, --top-layers or a lower --activation-memory."
        )

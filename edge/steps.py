"""A bundle's training step, loaded into the runtime that was chosen."""

from typing import Protocol

from edge.runtimes import Runtime, Runtimes
from ravan.bundle import TRAIN, Bundle
from ravan.bundle_files import shortest_graph
from ravan.layout import Vector
from ravan.runtime.ort_training import OrtTrainStep
from ravan.runtime.session import Batch, RuntimeOptions, StepResult, TrainStep


class Step(Protocol):
    """A bundle's training step, loaded; a ``Trainer`` that holds memory or a process."""

    def __call__(self, trainables: Vector, batch: Batch) -> StepResult:
        """Loss and gradients at given trainables for one batch."""
        ...

    @property
    def peak_memory(self) -> int:
        """The largest resident size so far of what it runs outside this process, bytes."""
        ...

    def close(self) -> None:
        """Lets go of what it holds."""
        ...


def open_step(runtimes: Runtimes, bundle: Bundle, options: RuntimeOptions, layers: int | None = None) -> Step:
    """The bundle's training step, loaded; gradients are needed for heads in so many of the last layers, None for all.

    Raises:
        BundleError: the bundle has no artifacts, or onnxruntime refuses its graph.
        RuntimeProblem: onnxruntime-training refuses its artifacts.
    """
    if runtimes.choose(bundle.manifest) is Runtime.ORT_TRAINING:
        assert runtimes.ort_python is not None
        return OrtTrainStep(bundle, options, runtimes.ort_python)
    if layers is None:
        return TrainStep(bundle, options)
    here = [name for name in bundle.manifest.files if bundle.path(name).exists()]
    return TrainStep(bundle, options, shortest_graph(here, layers) or TRAIN)

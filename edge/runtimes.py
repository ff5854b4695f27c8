"""Which runtime trains a bundle: stock onnxruntime on train.onnx, or onnxruntime-training on the official artifacts."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from ravan.bundle import Bundle, Manifest, Precision
from ravan.bundle_files import ARTIFACTS
from ravan.layout import Vector
from ravan.runtime.ort_training import (
    VERSION,
    OrtTrainStep,
    find_python,
    has_artifacts,
    require_artifacts,
    require_python,
)
from ravan.runtime.session import Batch, RuntimeOptions, StepResult, TrainStep


class Runtime(StrEnum):
    """What a user may ask for."""

    AUTO = "auto"
    ONNXRUNTIME = "onnxruntime"
    ORT_TRAINING = "ort-training"


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


@dataclass(frozen=True)
class Runtimes:
    """What is wanted and what is installed.

    Attributes:
        wanted: as the user said.
        ort_python: a Python with onnxruntime-training; None if there is none, or it is not wanted.
    """

    wanted: Runtime = Runtime.ONNXRUNTIME
    ort_python: Path | None = None

    @property
    def beside(self) -> str:
        """What there is beside onnxruntime, for the operator's list of devices."""
        return "" if self.ort_python is None else f", onnxruntime-training {VERSION}"

    @classmethod
    def find(cls, wanted: Runtime, ort_python: Path | None) -> "Runtimes":
        """Looks for what is wanted, and for the given Python if the user gives one.

        Raises:
            EnvironmentProblem: onnxruntime-training is wanted and not there, or is not the version it must be.
        """
        if wanted is Runtime.ONNXRUNTIME or (wanted is Runtime.AUTO and find_python(ort_python) is None):
            return cls(Runtime.ONNXRUNTIME)
        return cls(wanted, require_python(ort_python))

    def choose(self, manifest: Manifest) -> Runtime:
        """The runtime for a bundle; left to itself onnxruntime-training, unless the bundle is int8.

        The artifacts are float: with them an int8 bundle would lose what it was made for.
        """
        if self.wanted is not Runtime.AUTO:
            return self.wanted
        if self.ort_python is None or manifest.precision is Precision.INT8 or not has_artifacts(manifest):
            return Runtime.ONNXRUNTIME
        return Runtime.ORT_TRAINING

    def usable(self, bundle: Bundle) -> list["Runtimes"]:
        """One for each runtime that may be meant and can train the bundle.

        Raises:
            BundleError: onnxruntime-training is wanted and the bundle has no artifacts for it.
        """
        if self.wanted is Runtime.ORT_TRAINING:
            require_artifacts(bundle)
        found = [Runtimes()] if self.wanted is not Runtime.ORT_TRAINING else []
        if self.ort_python is not None and has_artifacts(bundle):
            found.append(Runtimes(Runtime.ORT_TRAINING, self.ort_python))
        return found

    def optional_files(self, manifest: Manifest) -> tuple[str, ...]:
        """What this device downloads beside the files that every device needs.

        Raises:
            BundleError: onnxruntime-training is wanted and the bundle has no artifacts for it.
        """
        if self.choose(manifest) is Runtime.ONNXRUNTIME:
            return ()
        require_artifacts(manifest)
        return ARTIFACTS

    def open(self, bundle: Bundle, options: RuntimeOptions) -> Step:
        """The bundle's training step, loaded.

        Raises:
            BundleError: the bundle has no artifacts, or onnxruntime refuses its graph.
            RuntimeProblem: onnxruntime-training refuses its artifacts.
        """
        if self.choose(bundle.manifest) is Runtime.ORT_TRAINING:
            assert self.ort_python is not None
            return OrtTrainStep(bundle, options, self.ort_python)
        return TrainStep(bundle, options)

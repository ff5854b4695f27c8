"""Which runtime trains a bundle: stock onnxruntime on train.onnx, or onnxruntime-training on the official artifacts.

The choice alone, so that the client can make it; ``edge.steps`` loads what was chosen.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ravan.artifacts import has_artifacts, require_artifacts
from ravan.bundle import Bundle, Manifest, Precision
from ravan.bundle_files import ARTIFACTS
from ravan.needs import require_onnxruntime


class Runtime(StrEnum):
    """What a user may ask for."""

    AUTO = "auto"
    ONNXRUNTIME = "onnxruntime"
    ORT_TRAINING = "ort-training"


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
        from ravan.runtime.ort_training import VERSION

        return "" if self.ort_python is None else f", onnxruntime-training {VERSION}"

    @classmethod
    def find(cls, wanted: Runtime, ort_python: Path | None) -> "Runtimes":
        """Looks for what is wanted, and for the given Python if the user gives one.

        Raises:
            EnvironmentProblem: onnxruntime-training is wanted and not there, or is not the version it must be.
        """
        from ravan.runtime.ort_training import find_python, require_python

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

    def admit(self, manifest: Manifest, onnxruntime: str) -> tuple[str, ...]:
        """What a device with this version of onnxruntime downloads beside the files that every device needs.

        Raises:
            EnvironmentProblem: the bundle needs a newer one.
            BundleError: see ``optional_files``.
        """
        require_onnxruntime(manifest.needs, onnxruntime)
        return self.optional_files(manifest)

    def optional_files(self, manifest: Manifest) -> tuple[str, ...]:
        """What this device downloads beside the files that every device needs.

        Raises:
            BundleError: onnxruntime-training is wanted and the bundle has no artifacts for it.
        """
        if self.choose(manifest) is Runtime.ONNXRUNTIME:
            return ()
        require_artifacts(manifest)
        return ARTIFACTS

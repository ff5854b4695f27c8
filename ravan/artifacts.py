"""Whether a bundle comes with the official artifacts for onnxruntime-training."""

from ravan.bundle import Bundle, Manifest
from ravan.bundle_files import ARTIFACTS
from ravan.errors import BundleError


def has_artifacts(there: Bundle | Manifest) -> bool:
    """Whether a manifest lists the artifacts, or a bundle's folder holds them: a device may do without."""
    if isinstance(there, Manifest):
        return set(ARTIFACTS) <= set(there.files)
    return has_artifacts(there.manifest) and all(there.path(name).exists() for name in ARTIFACTS)


def require_artifacts(there: Bundle | Manifest) -> None:
    """Raises BundleError if ``has_artifacts`` is false."""
    if not has_artifacts(there):
        raise BundleError(
            "The bundle has no artifacts for onnxruntime-training: ask the operator to export it with "
            "--with-ort-training, or use --runtime onnxruntime."
        )

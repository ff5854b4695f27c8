"""What must hold of a batch before a session runs it: onnxruntime's own words would not say what to do."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravan.axes import axis_size
from ravan.bundle import Manifest
from ravan.errors import DataError
from ravan.inputs import BATCH, LEAST, TensorInput
from ravan.runtime.names import IGNORED, LABELS

Arrays = Mapping[str, NDArray[Any]]
"""Input name to array; all have the batch as their first axis."""


def check_batch(manifest: Manifest, batch: Arrays, taken: Iterable[str]) -> None:
    """Refuses inputs that the graph is not made for; ``taken`` are the names of the inputs that it takes.

    Raises:
        DataError: an input is missing, of another dtype or shape; says which, what it is and what is expected.
    """
    expected = {x.name: x for x in manifest.inputs}
    sizes: dict[str, int] = {}
    for name in taken:
        if name in expected and (reason := mismatch(expected[name], batch.get(name), sizes, manifest.longest)):
            raise DataError(f"{reason}: give the inputs that ravan-export inspect shows.")


def mismatch(
    expected: TensorInput,
    array: NDArray[Any] | None,
    sizes: dict[str, int],
    longest: Mapping[str, int],
    least: int = LEAST,
) -> str | None:
    """What is wrong with an input in words that begin with its name; None if it fits.

    ``sizes`` holds those of the dimensions that other inputs of the batch have, and takes up this one's.
    """
    if array is None:
        return f"Input {expected.name} is missing, expected is {expected}"
    seen = TensorInput(expected.name, array.dtype.name, array.shape)
    wrong = f"Input {expected.name} is {seen}, expected is {expected}"
    if seen.dtype != expected.dtype or len(seen.shape) != len(expected.shape):
        return wrong
    for size, dimension in zip(array.shape, expected.shape, strict=True):
        wanted = dimension if isinstance(dimension, int) else known_size(dimension, sizes)
        if wanted is not None:
            if size != wanted:
                return wrong if isinstance(dimension, int) else f"{wrong} with {dimension} {wanted} as in other inputs"
            continue
        sizes[str(dimension)] = size
        low, high = (1, None) if dimension == BATCH else (least, longest.get(str(dimension)))
        if size < low or (high is not None and size > high):
            return f"{wrong} with {dimension} from {low} {'on' if high is None else f'to {high}'}"
    return None


def known_size(dimension: str, sizes: Mapping[str, int]) -> int | None:
    """The size of a dimension, or of an expression of some, if it follows from those that are known."""
    try:
        return axis_size(dimension, sizes)
    except KeyError:
        return None


def check_labels(manifest: Manifest, batch: Arrays) -> None:
    """Refuses what would read outside the logits or mean nothing, before the session runs.

    Raises:
        DataError: no labels at all, one outside the range, or one that is no number.
    """
    labels = batch.get(LABELS)
    if labels is None or not _counted(labels).size:
        raise DataError("A batch holds no label: give every example one.")
    if reason := wrong_labels(manifest, labels):
        raise DataError(f"{reason}: use the bundle's own labels.")


def wrong_labels(manifest: Manifest, labels: NDArray[Any]) -> str | None:
    """What is wrong with labels in words; None if nothing is."""
    if labels.dtype.kind == "f":
        return None if np.isfinite(labels).all() else "A label is not finite"
    counted = _counted(labels)
    if not counted.size:
        return "No label counts"
    least, most = int(counted.min()), int(counted.max())
    if least < 0 or most >= manifest.classes:
        return f"A label is {least if least < 0 else most}, the bundle knows 0 to {manifest.classes - 1}"
    return None


def _counted(labels: NDArray[Any]) -> NDArray[Any]:
    """All labels of examples, and those of tokens that are not ignored."""
    counted: NDArray[Any] = labels[labels != IGNORED] if labels.ndim > 1 and labels.dtype.kind == "i" else labels
    return counted

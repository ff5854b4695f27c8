"""NPZ files of NumPy: arrays by name, without pickles."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ravan.bundle import Bundle
from ravan.errors import DataError
from ravan.runtime.names import LABELS
from ravan.runtime.rows import label_of


def read_npz(path: Path, kind: str, written: str, given: str) -> dict[str, NDArray[Any]]:
    """All arrays of a file; for messages, what ``kind`` it should hold, how it is ``written``, what may be ``given``.

    Raises:
        DataError: it can't be read, or holds Python objects.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror or error}): {given}.") from error
    except (AttributeError, KeyError, ValueError, TypeError, EOFError, BadZipFile, zlib.error) as error:
        # AttributeError and TypeError: an .npy file, which holds one array
        raise DataError(f"{path} is no NPZ file of {kind}: {written}.") from error


@dataclass(frozen=True)
class NpzDataset:
    """A ``Dataset`` out of an NPZ file: an array for every input of the bundle, ``labels`` among them, examples first.

    Labels are numbers, or names of the bundle's labels.
    """

    arrays: Mapping[str, NDArray[Any]]
    index: Mapping[str, int]

    @classmethod
    def read(cls, path: Path, bundle: Bundle, *, labelled: bool = True) -> "NpzDataset":
        """Reads a file; without labels, if it is to be asked about, whether it holds some or not.

        Raises:
            DataError: it can't be read, lacks an input, or holds arrays of different lengths.
        """
        names = [x.name for x in bundle.manifest.inputs if labelled or x.name != LABELS]
        written = f"write it with numpy.savez(path, {', '.join(f'{name}=...' for name in names)})"
        arrays = read_npz(path, "arrays", written, "check the path and its permissions, or give an NPZ file")
        if missing := [name for name in names if name not in arrays]:
            raise DataError(f"{path} has no array {' or '.join(missing)}: {written}.")
        if len({value.shape[:1] for value in arrays.values()}) > 1 or not all(value.ndim for value in arrays.values()):
            shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in arrays.items())
            raise DataError(f"{path} holds {shapes}: give every array one entry for each example.")
        if not labelled:
            arrays.pop(LABELS, None)
        return cls(arrays, {name: i for i, name in enumerate(bundle.manifest.labels)})

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, index: int) -> Mapping[str, NDArray[Any]]:
        """As ``Dataset.__getitem__``.

        Raises:
            ValueError: the label's name is unknown.
        """
        example = {name: value[index] for name, value in self.arrays.items()}
        if LABELS in example and example[LABELS].dtype.kind == "U":
            named = [label_of({"label": name}, self.index) for name in np.ravel(example[LABELS]).tolist()]
            example[LABELS] = np.array(named, np.int64).reshape(example[LABELS].shape)
        return example

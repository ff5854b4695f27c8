"""Private examples in a form of one's own: the ``Dataset`` protocol, and NPZ files as what needs no code.

A dataset is found by name: one of the entry points of the group ``ravan.datasets``, ``package.module:Class`` or
``folder/file.py:Class``. It is made with the path that ``--data`` gives and the bundle.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ravan.bundle import Bundle, Manifest
from ravan.errors import DataError, NoExamples, RavanError, SettingsError
from ravan.inputs import BATCH, LEAST, TensorInput
from ravan.plugins import FORMS, describe, load_object
from ravan.runtime.checks import known_size, mismatch, wrong_labels
from ravan.runtime.names import IGNORED, INPUT_IDS, LABELS
from ravan.runtime.session import Batch

GROUP = "ravan.datasets"
Arrays = dict[str, NDArray[Any]]
"""Of one example, by input name, with a leading axis of 1."""


class Dataset(Protocol):
    """Examples by index, each the arrays of the bundle's inputs and ``labels`` by name, without the batch axis.

    May have ``tokens(index)``: what the example counts for beside the manifest's ``micro_batch``; by default the
    product of its dimensions that may differ, 1 if none may. Whatever it raises makes the example a bad one.
    """

    def __len__(self) -> int:
        """How many examples there are."""
        ...

    def __getitem__(self, index: int) -> Mapping[str, ArrayLike]:
        """One example; labels as numbers, of dimensions that may differ the real sizes: batches are padded later."""
        ...


MakeDataset = Callable[[Path, Bundle], Dataset]


@dataclass(frozen=True)
class Unlabelled:
    """A dataset to be asked about: its labels, if it has any, give way to zeros."""

    dataset: Dataset
    manifest: Manifest

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Mapping[str, ArrayLike]:
        """As ``Dataset.__getitem__``."""
        example = {name: value for name, value in self.dataset[index].items() if name != LABELS}
        sizes = {
            str(dimension): size
            for x in self.manifest.inputs
            if x.name in example
            for dimension, size in zip(x.shape[1:], np.shape(example[x.name]), strict=False)  # a misfit is said later
        }
        (labels,) = (x for x in self.manifest.inputs if x.name == LABELS)
        shape = [d if isinstance(d, int) else known_size(d, sizes) or LEAST for d in labels.shape[1:]]
        return {**example, LABELS: np.zeros(shape, labels.dtype)}


def find_dataset(name: str) -> MakeDataset:
    """The class, or function, that makes datasets.

    Raises:
        SettingsError: there is none of this name, or it can't be imported.
    """
    if ":" in name:
        found = load_object(name)
    else:
        known = {entry.name: entry for entry in entry_points(group=GROUP)}
        if name not in known:
            installed = ", ".join(sorted(known)) or "none"
            raise SettingsError(
                f"No dataset {name!r} is installed (there is {installed}): install it, or give {FORMS}."
            )
        try:
            found = known[name].load()
        except Exception as error:  # whatever a package raises while it is imported
            raise SettingsError(f"Dataset {name} can't be imported ({describe(error)}): install it again.") from error
    if not callable(found):
        raise SettingsError(f"Dataset {name} is {type(found).__name__}: name a class that takes a path and a bundle.")
    made: MakeDataset = found
    return made


@dataclass(frozen=True)
class DatasetExamples:
    """A dataset's good examples as batches, each looked at once before."""

    manifest: Manifest
    dataset: Dataset
    path: Path
    indices: Sequence[int]
    sizes: Sequence[int]
    skipped: int = 0

    @classmethod
    def read(cls, bundle: Bundle, path: Path, make: MakeDataset, *, skip_bad: bool = False) -> "DatasetExamples":
        """Makes the dataset and looks at every example.

        Raises:
            DataError: it can't be made, or an example does not fit the bundle's inputs and ``skip_bad`` is off.
            NoExamples: no usable example is left.
            SettingsError: the bundle is too old to say what its inputs are.
        """
        if not bundle.manifest.inputs:
            raise SettingsError("The bundle does not say what its inputs are: ask the operator to export it again.")
        dataset, count = _made(bundle, path, make)
        indices, sizes, targets = [], [], set()
        for index in range(count):
            try:
                example = arrays_of(bundle.manifest, dataset, index)
                sizes.append(_tokens(bundle.manifest, dataset, index, example))
            except ValueError as reason:
                if not skip_bad:
                    raise DataError(f"{path}, example {index}: {reason}; correct it or use --skip-bad.") from None
            else:
                indices.append(index)
                targets |= {example[LABELS].shape} if example[LABELS].dtype.kind == "f" else set()
        if not indices:
            raise NoExamples(f"{path} holds no usable example ({count} skipped): check its inputs and labels.")
        if len(targets) > 1:
            raise DataError(f"{path} has labels of several sizes, which a squared error can't pad: give them one.")
        return cls(bundle.manifest, dataset, path, indices, sizes, count - len(indices))

    def __len__(self) -> int:
        return len(self.indices)

    def tokens(self, index: int) -> int:
        """As ``Examples.tokens``."""
        return self.sizes[index]

    def batch(self, indices: Sequence[int]) -> Batch:
        """As ``Examples.batch``, shorter examples padded to the longest.

        Raises:
            DataError: an example is no longer what it was.
        """
        try:
            examples = [arrays_of(self.manifest, self.dataset, self.indices[i]) for i in indices]
        except ValueError as reason:
            raise DataError(f"{self.path} has changed: {reason}; start again with the data at rest.") from None
        return joined(self.manifest, examples)


def arrays_of(manifest: Manifest, dataset: Dataset, index: int) -> Arrays:
    """One example as the graphs take it, a batch of one.

    Raises:
        ValueError: it does not fit; says why.
    """
    try:
        given = {name: np.asarray(value) for name, value in dataset[index].items()}
    except ValueError:
        raise
    except Exception as error:  # whatever the dataset's own code raises
        raise ValueError(describe(error)) from error
    if unknown := given.keys() - {x.name for x in manifest.inputs}:
        raise ValueError(f"the bundle has no input {', '.join(sorted(unknown))}")
    sizes: dict[str, int] = {}
    arrays = {}
    for x in manifest.inputs:
        array = _cast(x, given.get(x.name))
        if reason := mismatch(x, array, sizes, manifest.longest, least=1):
            raise ValueError(reason)
        assert array is not None
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"Input {x.name} holds a value that is not finite")
        arrays[x.name] = array
    if reason := wrong_labels(manifest, arrays[LABELS]):
        raise ValueError(reason)
    return arrays


def joined(manifest: Manifest, examples: Sequence[Arrays]) -> Batch:
    """Examples as one batch, padded to the longest: token ids as the bundle says, labels with ones that don't count."""
    longest: dict[str, int] = {}
    batch = {}
    for x in manifest.inputs:
        arrays = [example[x.name] for example in examples]
        shape = [len(examples)]
        for axis, dimension in enumerate(x.shape[1:], 1):
            most = max(array.shape[axis] for array in arrays)
            if isinstance(dimension, str):
                known = known_size(dimension, longest)
                most = longest[dimension] = max(most, LEAST) if known is None else known
            shape.append(most)
        padded = np.full(shape, _padding(x, manifest), x.dtype)
        for row, array in enumerate(arrays):
            filled: tuple[Any, ...] = (row, *map(slice, array.shape[1:]))
            padded[filled] = array[0]
        batch[x.name] = padded
    return batch


def random_arrays(manifest: Manifest, rows: int, generator: np.random.Generator) -> dict[str, NDArray[Any]]:
    """A batch of the largest sizes for measuring: floats are noise, all else is 0, an index that every table has."""
    sizes = {**manifest.longest, BATCH: rows}
    arrays: dict[str, NDArray[Any]] = {}
    for x in manifest.inputs:
        shape = [d if isinstance(d, int) else known_size(d, sizes) or LEAST for d in x.shape]
        noise = x.dtype == "float32"
        arrays[x.name] = generator.standard_normal(shape, np.float32) if noise else np.zeros(shape, x.dtype)
    return arrays


def _made(bundle: Bundle, path: Path, make: MakeDataset) -> tuple[Dataset, int]:
    try:
        dataset = make(path, bundle)
        return dataset, len(dataset)
    except RavanError:
        raise
    except Exception as error:  # whatever the dataset's own code raises
        raise DataError(f"The dataset can't read {path} ({describe(error)}): check the path and its class.") from error


def _cast(x: TensorInput, value: NDArray[Any] | None) -> NDArray[Any] | None:
    """With a batch axis, and of the input's dtype if nothing is lost but a float's last digits."""
    if value is None:
        return None
    array = value[None]
    if array.dtype.kind not in "biuf" or not np.can_cast(array.dtype, x.dtype, "same_kind"):
        return array
    with np.errstate(over="ignore"):  # what overflows is no longer finite, and refused
        cast = array.astype(x.dtype)
    return cast if cast.dtype.kind == "f" or (cast == array).all() else array


def _tokens(manifest: Manifest, dataset: Dataset, index: int, example: Arrays) -> int:
    """What an example counts for.

    Raises:
        ValueError: the dataset's own count is none.
    """
    own = getattr(dataset, "tokens", None)
    if own is not None:
        try:
            count = int(own(index))
        except Exception as error:  # whatever the dataset's own code raises
            raise ValueError(describe(error)) from error
        if count < 1:
            raise ValueError(f"it counts for {count} tokens")
        return count
    sizes = {
        dimension: size
        for x in manifest.inputs
        for dimension, size in zip(x.shape[1:], example[x.name].shape[1:], strict=True)
        if dimension in manifest.longest
    }
    return math.prod(sizes.values()) if sizes else manifest.row_tokens(1)


def _padding(x: TensorInput, manifest: Manifest) -> int:
    if x.name == LABELS:
        return IGNORED if x.dtype == "int64" else 0
    return manifest.pad_id if x.name == INPUT_IDS else 0

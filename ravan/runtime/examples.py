"""Private examples on their way into batches: what every task's data has in common."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ravan.bundle import Bundle, Task
from ravan.runtime.names import LABELS
from ravan.runtime.session import Batch

if TYPE_CHECKING:
    from ravan.runtime.dataset import MakeDataset


class Examples(Protocol):
    """A data file read with a bundle's settings; examples are known by their index."""

    @property
    def skipped(self) -> int:
        """Entries left out because they hold no example."""
        ...

    def __len__(self) -> int:
        """How many examples there are."""
        ...

    def tokens(self, index: int) -> int:
        """What the example counts for in a batch of its like, padding included."""
        ...

    def batch(self, indices: Sequence[int]) -> Batch:
        """These examples as the graphs take them, labels included."""
        ...


def read_examples(bundle: Bundle, path: Path, *, skip_bad: bool = False, make: "MakeDataset | None" = None) -> Examples:
    """Reads a data file or folder as the bundle's task wants it, or as a dataset of the user's own ``make`` does.

    Raises:
        DataError: it can't be read, or an entry holds no example and ``skip_bad`` is off; names file and entry.
        NoExamples: no usable example is left.
    """
    if make is not None:
        from ravan.runtime.dataset import DatasetExamples

        return DatasetExamples.read(bundle, path, make, skip_bad=skip_bad)
    return _reader(bundle.manifest.task)(bundle, path, skip_bad=skip_bad)


def _reader(task: Task) -> Callable[..., Examples]:
    """What reads the task's data, as ``read_examples``."""
    match task:
        case Task.TEXT_CLASSIFICATION:
            from ravan.runtime.text import LabelledTexts

            return LabelledTexts.read
        case Task.TOKEN_CLASSIFICATION:
            from ravan.runtime.tags import TaggedTexts

            return TaggedTexts.read
        case Task.CAUSAL_LM:
            from ravan.runtime.language import Documents

            return Documents.read
        case Task.IMAGE_CLASSIFICATION:
            from ravan.runtime.images import LabelledImages

            return LabelledImages.read
        case Task.SEQ2SEQ:
            from ravan.runtime.pairs import Pairs

            return Pairs.read
        case Task.CUSTOM:
            from ravan.runtime.npz import NpzDataset

            return partial(read_examples, make=NpzDataset.read)


def micro_batches(examples: Examples, indices: Sequence[int], tokens: int) -> list[Batch]:
    """One mini-batch in parts of like size, each of at most ``tokens`` padded tokens; 0 for one part.

    Sorting by size within the mini-batch leaves least padding and changes no gradient: the parts' gradients, weighted
    by their examples (or labelled tokens), add up to the whole one's.
    """
    parts: list[list[int]] = []
    for i in sorted(indices, key=examples.tokens):
        if not parts or (tokens and (len(parts[-1]) + 1) * examples.tokens(i) > tokens):
            parts.append([])
        parts[-1].append(i)
    return [examples.batch(part) for part in parts]


def in_order_of_size(examples: Examples, count: int) -> Iterator[Batch]:
    """All examples once, in batches of ``count`` and of like size: least padding, for evaluation."""
    order = sorted(range(len(examples)), key=examples.tokens)
    for start in range(0, len(order), count):
        yield examples.batch(order[start : start + count])


def random_batch(bundle: Bundle, rows: int, length: int, generator: np.random.Generator) -> Batch:
    """A full batch of noise in the bundle's shapes, for measuring; of sequences each row has ``length`` tokens.

    Targets are the longest there are.
    """
    manifest = bundle.manifest
    if manifest.task is Task.CUSTOM:
        from ravan.runtime.dataset import random_arrays

        return random_arrays(manifest, rows, generator)
    if manifest.task is Task.SEQ2SEQ:
        from ravan.runtime.pairs import random_pairs

        return random_pairs(bundle, rows, length, generator)
    inputs: Mapping[str, NDArray[Any]]
    if manifest.task is Task.IMAGE_CLASSIFICATION:
        from ravan.runtime.images import random_pixels

        inputs = random_pixels(manifest, rows, generator)
    else:
        from ravan.runtime.text import random_tokens

        inputs = random_tokens(bundle, rows, length, generator)
    shape = (rows, length) if manifest.task.per_token else (rows,)
    return {**inputs, LABELS: generator.integers(0, manifest.classes, shape)}

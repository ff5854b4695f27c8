"""The same examples for both sides: noise in an NPZ file as transformers takes it, or real documents as JSONL."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.works import Work
from demo.data import newsgroups, write_jsonl
from ravan.bundle import Task
from ravan.runtime.names import ATTENTION_MASK, DECODER_INPUT_IDS, IGNORED, INPUT_IDS, LABELS, PIXEL_VALUES

Arrays = Mapping[str, NDArray[Any]]
"""As ``ravan.runtime.session.Batch``, whose module would load onnxruntime into PEFT's process."""

TARGET = 64  # tokens that a decoder writes: the longest unless an export says otherwise


def write_documents(path: Path, count: int) -> Path:
    """So many documents of 20 Newsgroups in random order, the same every time."""
    train = newsgroups().train
    order = np.random.default_rng(0).permutation(len(train))[:count]
    return write_jsonl(path, [train[i] for i in order])


def write_noise(path: Path, work: Work, batches: int, task: Task, config: Mapping[str, Any]) -> Path:
    """Full-length inputs and labels for so many mini-batches, in the shapes of a saved model's config.json."""
    generator, rows = np.random.default_rng(0), work.rows * batches
    if task is Task.IMAGE_CLASSIFICATION:
        shape = rows, config["num_channels"], config["image_size"], config["image_size"]
        inputs: dict[str, NDArray[Any]] = {PIXEL_VALUES: generator.standard_normal(shape, np.float32)}
    else:
        ids = generator.integers(0, config["vocab_size"], (rows, work.length))
        inputs = {INPUT_IDS: ids, ATTENTION_MASK: np.ones_like(ids)}
    match task:
        case Task.CAUSAL_LM:
            labels = inputs[INPUT_IDS]  # transformers shifts them itself
        case Task.SEQ2SEQ:
            labels = generator.integers(0, config["vocab_size"], (rows, TARGET))
            inputs[DECODER_INPUT_IDS] = np.roll(labels, 1, axis=1)
            inputs[DECODER_INPUT_IDS][:, 0] = config["decoder_start_token_id"]
        case _:
            labels = generator.integers(0, len(config["id2label"]), rows)
    np.savez(path, **inputs, **{LABELS: labels})  # type: ignore[arg-type]
    return path


def read_noise(path: Path) -> dict[str, NDArray[Any]]:
    """What ``write_noise`` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


@dataclass(frozen=True)
class Rows:
    """Arrays with a row for each example as ``ravan.runtime.examples.Examples``, all of the same size."""

    arrays: Arrays
    size: int
    skipped: int = 0

    @classmethod
    def of(cls, arrays: Arrays, task: Task, size: int) -> "Rows":
        """From transformers' inputs; a language model's labels become the tokens to follow, as our graphs take them."""
        if task is not Task.CAUSAL_LM:
            return cls(arrays, size)
        labels = np.full_like(arrays[LABELS], IGNORED)
        labels[:, :-1] = arrays[LABELS][:, 1:]
        return cls({**arrays, LABELS: labels}, size)

    def __len__(self) -> int:
        return len(self.arrays[LABELS])

    def tokens(self, index: int) -> int:
        """As ``Examples.tokens``."""
        return self.size

    def batch(self, indices: Sequence[int]) -> Arrays:
        """As ``Examples.batch``."""
        return {name: values[list(indices)] for name, values in self.arrays.items()}

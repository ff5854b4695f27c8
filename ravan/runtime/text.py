"""Labelled text, JSONL or CSV, as batches of token ids; and what all text has in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ravan.bundle import TOKENIZER, Bundle, Manifest
from ravan.runtime.names import ATTENTION_MASK, IGNORED, INPUT_IDS, LABELS
from ravan.runtime.rows import label_of, read_rows, text_of
from ravan.runtime.session import Batch

PAD_TO = 8  # lengths are rounded up to a multiple, so that the runtime sees few different shapes
COLUMNS = frozenset({"text", "label"})
Tokens = NDArray[np.int32]


@dataclass(frozen=True)
class LabelledTexts:
    """Texts as token ids, each with the index of its label."""

    manifest: Manifest
    ids: Sequence[Tokens]
    labels: Sequence[int]
    skipped: int = 0

    @classmethod
    def read(cls, bundle: Bundle, path: Path, *, skip_bad: bool = False) -> "LabelledTexts":
        """Reads ``text`` and ``label``; a label is one of the bundle's names or, in JSONL, its index.

        Raises:
            DataError: the file can't be read, or a line holds no example and ``skip_bad`` is off.
            NoExamples: no usable example is left.
        """
        index = {name: i for i, name in enumerate(bundle.manifest.labels)}
        rows = read_rows(path, COLUMNS, lambda row: (text_of(row), label_of(row, index)), skip_bad=skip_bad)
        texts, labels = zip(*rows.values, strict=True)
        return cls(bundle.manifest, encode(tokenizer_of(bundle), texts), labels, rows.skipped)

    def __len__(self) -> int:
        return len(self.ids)

    def tokens(self, index: int) -> int:
        """As ``Examples.tokens``."""
        return padded_length(len(self.ids[index]), self.manifest.max_length)

    def batch(self, indices: Sequence[int]) -> Batch:
        """As ``Examples.batch``, padded to the longest member, rounded up."""
        inputs = padded([self.ids[i] for i in indices], self.manifest)
        return {**inputs, LABELS: np.array([self.labels[i] for i in indices], np.int64)}


def tokenizer_of(bundle: Bundle, *, cut: bool = True) -> Tokenizer:
    """The bundle's tokenizer, without padding; ``cut`` at the bundle's longest length or not at all."""
    tokenizer = Tokenizer.from_file(str(bundle.path(TOKENIZER)))
    tokenizer.no_padding()
    if cut:
        tokenizer.enable_truncation(bundle.manifest.max_length)
    else:
        tokenizer.no_truncation()
    return tokenizer


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Tokens]:
    """Token ids of each text."""
    return [np.array(encoding.ids, np.int32) for encoding in tokenizer.encode_batch_fast(list(texts))]


def padded(ids: Sequence[Tokens], manifest: Manifest) -> dict[str, NDArray[np.int64]]:
    """Token ids and mask, [batch, length], padded to the longest, rounded up."""
    length = padded_length(max(map(len, ids)), manifest.max_length)
    token_ids = np.full((len(ids), length), manifest.pad_id, np.int64)
    mask = np.zeros((len(ids), length), np.int64)
    for row, tokens in enumerate(ids):
        token_ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return {INPUT_IDS: token_ids, ATTENTION_MASK: mask}


def padded_labels(labels: Sequence[Tokens], length: int) -> NDArray[np.int64]:
    """Labels of tokens, [batch, length], filled up with ones that count for nothing."""
    filled = np.full((len(labels), length), IGNORED, np.int64)
    for row, values in zip(filled, labels, strict=True):
        row[: len(values)] = values
    return filled


def padded_length(length: int, longest: int) -> int:
    """A length rounded up to ``PAD_TO``, between 2 and the bundle's longest."""
    return min(max(-(-length // PAD_TO) * PAD_TO, 2), max(longest, 2))


def random_tokens(
    bundle: Bundle, rows: int, length: int, generator: np.random.Generator
) -> Mapping[str, NDArray[np.int64]]:
    """Random token ids without padding, such as both the tokenizer and the model know."""
    vocabulary = tokenizer_of(bundle).get_vocab_size()
    if writes := bundle.manifest.language or bundle.manifest.seq2seq:
        vocabulary = min(vocabulary, writes.vocabulary)
    ids = generator.integers(0, vocabulary, (rows, length))
    return {INPUT_IDS: ids, ATTENTION_MASK: np.ones((rows, length), np.int64)}

"""Words with a tag each, JSONL, as batches of token ids with a label for the first token of every word."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from ravan.bundle import Bundle, Manifest
from ravan.errors import DataError
from ravan.runtime.names import IGNORED, LABELS
from ravan.runtime.rows import index_of, read_rows, unicode
from ravan.runtime.session import Batch
from ravan.runtime.text import Tokens, padded, padded_labels, padded_length, tokenizer_of

COLUMNS = frozenset({"tokens", "tags"})


@dataclass(frozen=True)
class TaggedTexts:
    """Texts as token ids, each with as many labels: of a word its first token's is the tag, the rest count for nothing.

    The labels are those of transformers' examples for token classification (run_ner.py).
    """

    manifest: Manifest
    ids: Sequence[Tokens]
    labels: Sequence[Tokens]
    skipped: int = 0

    @classmethod
    def read(cls, bundle: Bundle, path: Path, *, skip_bad: bool = False) -> "TaggedTexts":
        """Reads ``tokens`` and ``tags``, lists of one length; a tag is one of the bundle's labels or its index.

        Raises:
            DataError: the file can't be read, or a line holds no example and ``skip_bad`` is off.
            NoExamples: no usable example is left.
        """
        if path.suffix.lower() == ".csv":
            raise DataError(f"{path}: a table can't hold lists of tokens and tags: write them as JSONL.")
        index = {name: i for i, name in enumerate(bundle.manifest.labels)}
        split = Words(bundle)

        def parse(row: Mapping[str, object]) -> tuple[Tokens, Tokens]:
            words, tags = words_of(row), _tags(row, index)
            if len(words) != len(tags):
                raise ValueError(f"{len(words)} tokens and {len(tags)} tags")
            ids, first = split(words)
            if not first:
                raise ValueError("no tokens")
            labels = np.full(len(ids), IGNORED, np.int32)
            labels[list(first.values())] = [tags[word] for word in first]
            return ids, labels

        rows = read_rows(path, COLUMNS, parse, skip_bad=skip_bad)
        ids, labels = zip(*rows.values, strict=True)
        return cls(bundle.manifest, ids, labels, rows.skipped)

    def __len__(self) -> int:
        return len(self.ids)

    def tokens(self, index: int) -> int:
        """As ``Examples.tokens``."""
        return padded_length(len(self.ids[index]), self.manifest.max_length)

    def batch(self, indices: Sequence[int]) -> Batch:
        """As ``Examples.batch``; labels [batch, length] at the first token of every word."""
        inputs = padded([self.ids[i] for i in indices], self.manifest)
        return {**inputs, LABELS: padded_labels([self.labels[i] for i in indices], max(map(self.tokens, indices)))}


class Words:
    """A bundle's tokenizer for texts that come as words."""

    def __init__(self, bundle: Bundle) -> None:
        self._tokenizer = tokenizer_of(bundle)
        # a byte-level tokenizer knows the beginning of a word by the space before it
        self._before = " " if _byte_level(self._tokenizer) else ""

    def __call__(self, words: Sequence[str]) -> tuple[Tokens, Mapping[int, int]]:
        """Token ids, and by word the place of its first token; a word that was cut off or has no token has no place."""
        encoding = self._tokenizer.encode([self._before + word for word in words], is_pretokenized=True)
        first: dict[int, int] = {}
        for place, word in enumerate(encoding.word_ids):
            if word is not None:
                first.setdefault(word, place)
        return np.array(encoding.ids, np.int32), first


def words_of(row: Mapping[str, object]) -> list[str]:
    """A row's words.

    Raises:
        ValueError: it has none.
    """
    words = row.get("tokens")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError("tokens is no list of words")
    return [unicode(word) for word in words]


def _tags(row: Mapping[str, object], index: Mapping[str, int]) -> list[int]:
    tags = row.get("tags")
    if not isinstance(tags, list):
        raise ValueError("tags is no list")
    return [index_of(tag, index, "tag") for tag in tags]


def _byte_level(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer writes spaces as a part of words, as GPT-2's does."""
    state = json.loads(tokenizer.to_str())["pre_tokenizer"]
    parts = [] if state is None else state.get("pretokenizers", [state])
    return any(part["type"] == "ByteLevel" for part in parts)

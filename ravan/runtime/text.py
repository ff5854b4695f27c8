"""Labelled text on disk, JSONL or CSV, as batches of token ids."""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from ravan.bundle import TOKENIZER, Bundle
from ravan.errors import DataError, NoExamples
from ravan.runtime.names import ATTENTION_MASK, INPUT_IDS, LABELS
from ravan.runtime.session import Batch

PAD_TO = 8  # lengths are rounded up to a multiple, so that the runtime sees few different shapes
LARGEST_FIELD = 16 << 20  # characters of one CSV field


@dataclass(frozen=True)
class TextExample:
    """One text and the index of its label."""

    text: str
    label: int


@dataclass(frozen=True)
class TextData:
    """The examples of a file, and how many lines were skipped because they hold none."""

    examples: tuple[TextExample, ...]
    skipped: int = 0


def read_text_data(path: Path, labels: Sequence[str], *, skip_bad: bool = False) -> TextData:
    """Reads ``text`` and ``label`` from JSONL (one object a line) or CSV (a header row), UTF-8.

    A label is a name out of ``labels`` or, in JSONL, its index.

    Raises:
        DataError: the file can't be read, or a line holds no example and ``skip_bad`` is off; names file and line.
        NoExamples: no usable example is left.
    """
    readers = {".jsonl": _jsonl_rows, ".json": _jsonl_rows, ".csv": _csv_rows}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} is neither JSONL nor CSV: name it .jsonl or .csv.")
    index = {name: i for i, name in enumerate(labels)}
    examples, skipped = [], 0
    try:
        for line, row in reader(path):
            try:
                examples.append(_example(row, index))
            except ValueError as reason:
                if not skip_bad:
                    raise DataError(f"{path}, line {line}: {reason}; correct it or use --skip-bad.") from None
                skipped += 1
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror}): check the path and its permissions.") from error
    if not examples:
        raise NoExamples(f"{path} holds no usable example ({skipped} lines skipped): check its text and label fields.")
    return TextData(tuple(examples), skipped)


def _jsonl_rows(path: Path) -> Iterator[tuple[int, object]]:
    with path.open("rb") as file:
        for line, raw in enumerate(file, 1):
            if raw.strip():
                yield line, raw


def _csv_rows(path: Path) -> Iterator[tuple[int, object]]:
    csv.field_size_limit(LARGEST_FIELD)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            missing = {"text", "label"} - set(reader.fieldnames or ())
            if missing:
                raise DataError(
                    f"{path}, line 1: no column {' or '.join(sorted(missing))}; name them in the first row."
                )
            for row in reader:
                yield reader.line_num, row
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.reader.line_num}: not CSV ({error}); correct it.") from error


def _example(row: object, index: dict[str, int]) -> TextExample:
    """Raises ValueError with the reason if the row is no example."""
    if isinstance(row, bytes):
        try:
            row = json.loads(row.decode("utf-8-sig"))
        except UnicodeDecodeError:
            raise ValueError("not UTF-8") from None
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"not JSON ({error})") from None
    if not isinstance(row, dict):
        raise ValueError("not an object with text and label")
    text, label = row.get("text"), row.get("label")
    if not isinstance(text, str) or not text.strip():
        raise ValueError("no text")
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError("not UTF-8")
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(index):
        return TextExample(text, label)
    if not isinstance(label, str) or label not in index:
        raise ValueError(f"unknown label {label!r}")
    return TextExample(text, index[label])


class TextBatches:
    """Tokenizes a bundle's way and forms padded batches."""

    def __init__(self, bundle: Bundle) -> None:
        self._tokenizer = Tokenizer.from_file(str(bundle.path(TOKENIZER)))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(bundle.manifest.max_length)
        self._pad_id = bundle.manifest.pad_id
        self._longest = bundle.manifest.max_length

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, examples: Sequence[TextExample]) -> list[list[int]]:
        """Token ids of each text, at most the bundle's longest length."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch([e.text for e in examples])]

    def batch(self, ids: Sequence[Sequence[int]], labels: Sequence[int]) -> Batch:
        """One batch padded to its longest member, rounded up."""
        length = self._padded(max(map(len, ids)))
        token_ids = np.full((len(ids), length), self._pad_id, np.int64)
        mask = np.zeros((len(ids), length), np.int64)
        for row, tokens in enumerate(ids):
            token_ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        return {INPUT_IDS: token_ids, ATTENTION_MASK: mask, LABELS: np.array(labels, np.int64)}

    def micro_batches(self, examples: Sequence[TextExample], tokens: int) -> list[Batch]:
        """One mini-batch in parts of like length, each of at most ``tokens`` padded tokens; 0 for one part.

        Sorting by length within the mini-batch leaves least padding and changes no gradient: the parts' gradients,
        weighted by their examples, add up to the whole one's.
        """
        ids = self.encode(examples)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        parts: list[list[int]] = []
        for i in order:
            if not parts or (tokens and (len(parts[-1]) + 1) * self._padded(len(ids[i])) > tokens):
                parts.append([])
            parts[-1].append(i)
        return [self.batch([ids[i] for i in part], [examples[i].label for i in part]) for part in parts]

    def in_order_of_length(self, examples: Sequence[TextExample], size: int) -> Iterator[Batch]:
        """All examples once, in batches of like length: least padding, for evaluation."""
        ids = self.encode(examples)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            yield self.batch([ids[i] for i in chosen], [examples[i].label for i in chosen])

    def _padded(self, length: int) -> int:
        """A length rounded up to ``PAD_TO``, between 2 and the bundle's longest."""
        return min(max(-(-length // PAD_TO) * PAD_TO, 2), max(self._longest, 2))

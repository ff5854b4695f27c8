"""Rows of JSONL and CSV files; what is wrong is named by file and line."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from ravan.errors import DataError, NoExamples

T = TypeVar("T")
LARGEST_FIELD = 16 << 20  # characters of one CSV field


@dataclass(frozen=True)
class Rows(Generic[T]):
    """What a file's rows hold, and how many were skipped because they hold nothing usable."""

    values: tuple[T, ...]
    skipped: int = 0


def read_rows(
    path: Path, columns: frozenset[str], parse: Callable[[Mapping[str, object]], T], *, skip_bad: bool
) -> Rows[T]:
    """Reads JSONL (one object a line) or CSV (a header row), UTF-8; ``parse`` raises ValueError with its reason.

    Raises:
        DataError: the file can't be read, or a row is of no use and ``skip_bad`` is off; names file and line.
        NoExamples: no usable row is left.
    """
    values, skipped = [], 0
    try:
        for line, row in _reader(path, columns):
            try:
                values.append(parse(_object(row)))
            except ValueError as reason:
                if not skip_bad:
                    raise DataError(f"{path}, line {line}: {reason}; correct it or use --skip-bad.") from None
                skipped += 1
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror}): check the path and its permissions.") from error
    if not values:
        fields = " and ".join(sorted(columns, reverse=True))
        raise NoExamples(f"{path} holds no usable example ({skipped} lines skipped): check its {fields} fields.")
    return Rows(tuple(values), skipped)


def text_of(row: Mapping[str, object]) -> str:
    """The row's text.

    Raises:
        ValueError: it has none, or one that is not Unicode.
    """
    text = row.get("text")
    if not isinstance(text, str) or not text.strip():
        raise ValueError("no text")
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError("not UTF-8")
    return text


def label_of(row: Mapping[str, object], index: Mapping[str, int]) -> int:
    """The index of the row's label, given by name or, in JSONL, by index.

    Raises:
        ValueError: the label is not among ``index``.
    """
    label = row.get("label")
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(index):
        return label
    if not isinstance(label, str) or label not in index:
        raise ValueError(f"unknown label {label!r}")
    return index[label]


def _reader(path: Path, columns: frozenset[str]) -> Iterator[tuple[int, object]]:
    match path.suffix.lower():
        case ".jsonl" | ".json":
            return _jsonl(path)
        case ".csv":
            return _csv(path, columns)
    raise DataError(f"{path} is neither JSONL nor CSV: name it .jsonl or .csv.")


def _jsonl(path: Path) -> Iterator[tuple[int, object]]:
    with path.open("rb") as file:
        for line, raw in enumerate(file, 1):
            if raw.strip():
                yield line, raw


def _csv(path: Path, columns: frozenset[str]) -> Iterator[tuple[int, object]]:
    csv.field_size_limit(LARGEST_FIELD)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            if missing := columns - set(reader.fieldnames or ()):
                raise DataError(
                    f"{path}, line 1: no column {' or '.join(sorted(missing))}; name them in the first row."
                )
            for row in reader:
                yield reader.line_num, row
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.reader.line_num}: not CSV ({error}); correct it.") from error


def _object(row: object) -> Mapping[str, object]:
    """Raises ValueError with the reason if the row is no object."""
    if isinstance(row, bytes):
        try:
            row = json.loads(row.decode("utf-8-sig"))
        except UnicodeDecodeError:
            raise ValueError("not UTF-8") from None
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"not JSON ({error})") from None
    if not isinstance(row, dict):
        raise ValueError("not an object with fields")
    return row

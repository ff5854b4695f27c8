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
    path: Path,
    columns: frozenset[str],
    parse: Callable[[Mapping[str, object]], T],
    *,
    skip_bad: bool,
    or_columns: frozenset[str] | None = None,
) -> Rows[T]:
    """Reads JSONL (one object a line) or CSV (a header row), UTF-8.

    Args:
        path: ends in .jsonl, .json or .csv.
        columns: a table has them all.
        parse: what a row holds; raises ValueError with its reason.
        skip_bad: leave out rows of no use.
        or_columns: a table may have these instead.

    Raises:
        DataError: the file can't be read, or a row is of no use and ``skip_bad`` is off; names file and line.
        NoExamples: no usable row is left.
    """
    values, skipped = [], 0
    try:
        for line, row in _reader(path, columns, or_columns or columns):
            try:
                values.append(parse(_object(row)))
            except ValueError as reason:
                if not skip_bad:
                    raise DataError(f"{path}, line {line}: {reason}; correct it or use --skip-bad.") from None
                skipped += 1
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror}): check the path and its permissions.") from error
    if not values:
        fields = " or ".join(" and ".join(sorted(names, reverse=True)) for names in (columns, or_columns) if names)
        raise NoExamples(f"{path} holds no usable example ({skipped} lines skipped): check its {fields} fields.")
    return Rows(tuple(values), skipped)


def text_of(row: Mapping[str, object], field: str = "text") -> str:
    """A row's text.

    Raises:
        ValueError: it has none, or one that is not Unicode.
    """
    text = row.get(field)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"no {field}")
    return unicode(text)


def unicode(text: str) -> str:
    """The text itself.

    Raises:
        ValueError: it holds half a character, which JSON can write and UTF-8 can't.
    """
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError("not UTF-8")
    return text


def label_of(row: Mapping[str, object], index: Mapping[str, int]) -> int:
    """The index of the row's label, given by name or, in JSONL, by index.

    Raises:
        ValueError: the label is not among ``index``.
    """
    return index_of(row.get("label"), index, "label")


def index_of(name: object, index: Mapping[str, int], kind: str) -> int:
    """The index of a label's name, which may be the index already.

    Raises:
        ValueError: the label is not among ``index``; calls it by its ``kind``.
    """
    if isinstance(name, int) and not isinstance(name, bool) and 0 <= name < len(index):
        return name
    if not isinstance(name, str) or name not in index:
        raise ValueError(f"unknown {kind} {name!r}")
    return index[name]


def _reader(path: Path, columns: frozenset[str], or_columns: frozenset[str]) -> Iterator[tuple[int, object]]:
    match path.suffix.lower():
        case ".jsonl" | ".json":
            return _jsonl(path)
        case ".csv":
            return _csv(path, columns, or_columns)
    raise DataError(f"{path} is neither JSONL nor CSV: name it .jsonl or .csv.")


def _jsonl(path: Path) -> Iterator[tuple[int, object]]:
    with path.open("rb") as file:
        for line, raw in enumerate(file, 1):
            if raw.strip():
                yield line, raw


def _csv(path: Path, columns: frozenset[str], or_columns: frozenset[str]) -> Iterator[tuple[int, object]]:
    csv.field_size_limit(LARGEST_FIELD)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            named = set(reader.fieldnames or ())
            if not (columns <= named or or_columns <= named):
                needed = ", or ".join(
                    " and ".join(sorted(names - named)) for names in dict.fromkeys((columns, or_columns))
                )
                raise DataError(f"{path}, line 1: no column {needed}; name them in the first row.")
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

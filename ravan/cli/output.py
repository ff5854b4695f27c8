"""How commands print their results."""

from enum import StrEnum


class Format(StrEnum):
    """For people, or for programs."""

    TEXT = "text"
    JSON = "json"


class RowFormat(StrEnum):
    """The same for results of many rows: lines for people, an object a line, or one list."""

    TEXT = "text"
    JSONL = "jsonl"
    JSON = "json"

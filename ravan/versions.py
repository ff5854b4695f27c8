"""Versions of the client, and which of two is the newer: numbers, and perhaps a beginning a, b or rc."""

import re

from ravan.errors import ReleaseError

VERSION = r"\d{1,6}(?:\.\d{1,6}){0,4}(?:(?:a|b|rc)\d{1,6})?"
_PARTS = re.compile(r"(\d+(?:\.\d+)*)(?:(a|b|rc)(\d+))?", re.ASCII)
_FINAL = ("z", 0)  # after a, b and rc

Order = tuple[tuple[int, ...], tuple[str, int]]


def order(version: str) -> Order:
    """By which versions are compared, as PEP 440 orders those of this form.

    Raises:
        ReleaseError: it is none.
    """
    found = _PARTS.fullmatch(version) if re.fullmatch(VERSION, version, re.ASCII) else None
    if found is None:
        raise ReleaseError(f"{version[:40]!r} is no version: write it as 0.2.0 or 0.3.0rc1.")
    numbers = [int(number) for number in found[1].split(".")]
    while len(numbers) > 1 and not numbers[-1]:
        numbers.pop()
    return tuple(numbers), (found[2], int(found[3])) if found[2] else _FINAL


def is_newer(version: str, than: str) -> bool:
    """Whether a version comes after another.

    Raises:
        ReleaseError: one of them is none.
    """
    return order(version) > order(than)

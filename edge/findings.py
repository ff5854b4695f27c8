"""What ravan-edge doctor finds."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a check came out; a warning does not keep the device from taking part."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """One check: its name, how it came out, and a sentence that says what was found and what to do."""

    check: str
    verdict: Verdict
    sentence: str


def sound(check: str, sentence: str) -> Finding:
    """All is well."""
    return Finding(check, Verdict.OK, sentence)


def warning(check: str, sentence: str) -> Finding:
    """Worth knowing."""
    return Finding(check, Verdict.WARNING, sentence)


def problem(check: str, sentence: str) -> Finding:
    """Keeps the device from taking part."""
    return Finding(check, Verdict.PROBLEM, sentence)

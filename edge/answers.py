"""What a model says about a text, words, an image or another example: as a row for programs, as a line for people."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

LONGEST = 80  # characters of a text in a line


class Answer(Protocol):
    """What the model says about one thing."""

    def row(self) -> dict[str, Any]:
        """For programs."""
        ...

    def line(self) -> str:
        """For people."""
        ...


@dataclass(frozen=True)
class Labelled:
    """The likeliest labels in falling order, and ``about`` which text it is, or where the image or example is.

    Attributes:
        kind: text, image or example.
    """

    kind: str
    about: str
    probabilities: Mapping[str, float]

    def row(self) -> dict[str, Any]:
        """As ``Answer.row``."""
        label = next(iter(self.probabilities))
        return {
            self.kind: self.about,
            "label": label,
            "probability": self.probabilities[label],
            "probabilities": dict(self.probabilities),
        }

    def line(self) -> str:
        """As ``Answer.line``."""
        labels = [f"{label} {probability:.3f}" for label, probability in self.probabilities.items()]
        return "  ".join([*labels, _short(self.about)])


@dataclass(frozen=True)
class Tagged:
    """The likeliest tag of each word and its probability; None where the text was cut, or a word has no token."""

    words: Sequence[str]
    tags: Sequence[str | None]
    probabilities: Sequence[float | None]

    def row(self) -> dict[str, Any]:
        """As ``Answer.row``."""
        return {"tokens": list(self.words), "tags": list(self.tags), "probabilities": list(self.probabilities)}

    def line(self) -> str:
        """As ``Answer.line``."""
        return " ".join(f"{word}/{tag or '?'}" for word, tag in zip(self.words, self.tags, strict=True))


@dataclass(frozen=True)
class Continued:
    """How a text goes on, None if nobody asked, and its perplexity, None for a single token."""

    text: str
    continuation: str | None
    perplexity: float | None

    def row(self) -> dict[str, Any]:
        """As ``Answer.row``."""
        said = {} if self.continuation is None else {"continuation": self.continuation}
        return {"text": self.text, **said, "perplexity": self.perplexity}

    def line(self) -> str:
        """As ``Answer.line``."""
        perplexity = "perplexity -" if self.perplexity is None else f"perplexity {self.perplexity:.2f}"
        said = "" if self.continuation is None else f" | {_one_line(self.continuation)}"
        return f"{perplexity}  {_short(self.text)}{said}"


@dataclass(frozen=True)
class Computed:
    """What a module of a user's own gives for the example at ``about``: nested lists by what they are."""

    about: str
    found: Mapping[str, Any]

    def row(self) -> dict[str, Any]:
        """As ``Answer.row``."""
        return {"example": self.about, **self.found}

    def line(self) -> str:
        """As ``Answer.line``: the first of them."""
        return f"{json.dumps(next(iter(self.found.values())))}  {_short(self.about)}"


def _short(text: str) -> str:
    line = _one_line(text)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def _one_line(text: str) -> str:
    """Without line breaks, and without control characters, which would reach the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)

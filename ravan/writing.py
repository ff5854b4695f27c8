"""What the manifests of models that write text add."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LanguageSettings:
    """How documents become sequences for next-token prediction.

    Attributes:
        vocabulary: number of token ids the model knows.
        end_id: token id that ends a document.
        packed: documents are joined and cut into full sequences; else each is cut on its own and padded.
    """

    vocabulary: int
    end_id: int
    packed: bool

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "LanguageSettings":
        """Reads what ``dataclasses.asdict`` made."""
        return cls(int(value["vocabulary"]), int(value["end_id"]), bool(value["packed"]))


@dataclass(frozen=True)
class Seq2SeqSettings:
    """How a source and a target become what an encoder reads and a decoder predicts.

    Attributes:
        vocabulary: number of token ids the model knows.
        start_id: token id that the decoder starts from.
        end_id: token id that ends a target.
        max_target: longest target, tokens, its end included.
        prefix: text that every source begins with, as T5's "summarize: ".
    """

    vocabulary: int
    start_id: int
    end_id: int
    max_target: int
    prefix: str = ""

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "Seq2SeqSettings":
        """Reads what ``dataclasses.asdict`` made.

        Raises:
            ValueError: a token id that the model does not know, or a length that makes no sense.
        """
        vocabulary, start_id, end_id, max_target = (
            int(value[name]) for name in ("vocabulary", "start_id", "end_id", "max_target")
        )
        if not 0 <= min(start_id, end_id) <= max(start_id, end_id) < vocabulary or max_target < 2:
            raise ValueError(f"targets of {max_target} tokens from {start_id} to {end_id} of {vocabulary}")
        return cls(vocabulary, start_id, end_id, max_target, str(value["prefix"]))

"""Documents, plain text or JSONL, as sequences for next-token prediction."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ravan.bundle import Bundle, LanguageSettings, Manifest
from ravan.errors import DataError, NoExamples
from ravan.runtime.names import IGNORED, LABELS
from ravan.runtime.rows import Rows, read_rows, text_of
from ravan.runtime.session import Batch
from ravan.runtime.text import Tokens, encode, padded, padded_length, tokenizer_of

COLUMNS = frozenset({"text"})


@dataclass(frozen=True)
class Documents:
    """Sequences of up to ``max_length`` + 1 token ids: every token but the last is an input, all but the first a label.

    Packed, documents are joined with an end token after each and cut into full sequences, which share one token at
    the cut so that every token is predicted once. Else every document is cut on its own and padded.
    """

    manifest: Manifest
    sequences: Sequence[Tokens]
    skipped: int = 0

    @classmethod
    def read(cls, bundle: Bundle, path: Path, *, skip_bad: bool = False) -> "Documents":
        """Reads plain text (.txt, one document) or JSONL and CSV with ``text`` (a document a row), UTF-8.

        Raises:
            DataError: the file can't be read, or a row holds no text and ``skip_bad`` is off.
            NoExamples: no usable text is left.
        """
        settings = bundle.manifest.language
        assert settings is not None
        rows = _plain(path) if path.suffix.lower() == ".txt" else read_rows(path, COLUMNS, text_of, skip_bad=skip_bad)
        end = np.array([settings.end_id], np.int32)
        documents = [np.append(ids, end) for ids in encode(tokenizer_of(bundle, cut=False), rows.values)]
        cut = _sequences(documents, bundle.manifest.max_length, settings)
        if not cut:
            raise NoExamples(f"{path} holds less than two tokens of text: give more text.")
        return cls(bundle.manifest, cut, rows.skipped)

    def __len__(self) -> int:
        return len(self.sequences)

    def tokens(self, index: int) -> int:
        """As ``Examples.tokens``."""
        return padded_length(len(self.sequences[index]) - 1, self.manifest.max_length)

    def batch(self, indices: Sequence[int]) -> Batch:
        """As ``Examples.batch``; labels [batch, length] are the tokens to follow, and nothing at the padding."""
        chosen = [self.sequences[i] for i in indices]
        inputs = padded([tokens[:-1] for tokens in chosen], self.manifest)
        labels = np.full((len(chosen), max(map(self.tokens, indices))), IGNORED, np.int64)
        for row, tokens in enumerate(chosen):
            labels[row, : len(tokens) - 1] = tokens[1:]
        return {**inputs, LABELS: labels}


def _sequences(documents: Sequence[Tokens], length: int, settings: LanguageSettings) -> list[Tokens]:
    streams = [np.concatenate(documents)] if settings.packed else documents
    pieces = [stream[i : i + length + 1] for stream in streams for i in range(0, len(stream) - 1, length)]
    return [piece for piece in pieces if len(piece) > 1]


def _plain(path: Path) -> Rows[str]:
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror}): check the path and its permissions.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}): convert it.") from error
    if not text.strip():
        raise NoExamples(f"{path} holds no text: give a file with some.")
    return Rows((text,))

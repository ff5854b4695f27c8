"""Documents, or prompts and their completions, as sequences for next-token prediction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from ravan.bundle import Bundle, Manifest
from ravan.errors import DataError, NoExamples
from ravan.runtime.names import IGNORED, LABELS
from ravan.runtime.rows import Rows, read_rows, text_of
from ravan.runtime.session import Batch
from ravan.runtime.text import Tokens, encode, padded, padded_labels, padded_length, tokenizer_of
from ravan.writing import LanguageSettings

COLUMNS = frozenset({"text"})
ANSWERED = frozenset({"prompt", "completion"})


@dataclass(frozen=True)
class Piece:
    """Up to ``max_length`` + 1 token ids: all but the last are inputs, all but the first ``given`` are labels."""

    ids: Tokens
    given: int = 1

    @property
    def inputs(self) -> Tokens:
        """What the model sees."""
        return self.ids[:-1]

    @property
    def labels(self) -> Tokens:
        """What follows each input, ignored where it was given."""
        labels = self.ids[1:].copy()
        labels[: self.given - 1] = IGNORED
        return labels


@dataclass(frozen=True)
class Documents:
    """Pieces of documents, and prompts with their completions.

    Packed, documents are joined with an end token after each and cut into full pieces, which share one token at the cut
    so that every token is predicted once. Else every document is cut on its own and padded. A prompt with its
    completion is always a piece of its own, cut at its end; the completion's tokens and an end token are predicted.
    """

    manifest: Manifest
    pieces: Sequence[Piece]
    skipped: int = 0

    @classmethod
    def read(cls, bundle: Bundle, path: Path, *, skip_bad: bool = False) -> "Documents":
        """Reads plain text (.txt, one document), or JSONL and CSV with ``text``, or ``prompt`` and ``completion``.

        Raises:
            DataError: the file can't be read, or a row holds no text and ``skip_bad`` is off.
            NoExamples: no usable text is left.
        """
        settings, longest = bundle.manifest.language, bundle.manifest.max_length
        assert settings is not None
        tokenizer = tokenizer_of(bundle, cut=False)

        def parse(row: Mapping[str, object]) -> str | Piece:
            if "messages" in row:
                raise ValueError("messages need a chat template, which devices don't have: write prompt and completion")
            if ANSWERED & row.keys():
                return _answered(tokenizer, row, settings, longest)
            return text_of(row)

        rows: Rows[str | Piece] = (
            Rows((read_plain(path),))
            if path.suffix.lower() == ".txt"
            else read_rows(path, COLUMNS, parse, skip_bad=skip_bad, or_columns=ANSWERED)
        )
        texts = [value for value in rows.values if isinstance(value, str)]
        pieces = [value for value in rows.values if isinstance(value, Piece)]
        pieces += _cut(encode(tokenizer, texts), longest, settings)
        if not pieces:
            raise NoExamples(f"{path} holds less than two tokens of text: give more text.")
        return cls(bundle.manifest, pieces, rows.skipped)

    def __len__(self) -> int:
        return len(self.pieces)

    def tokens(self, index: int) -> int:
        """As ``Examples.tokens``."""
        return padded_length(len(self.pieces[index].inputs), self.manifest.max_length)

    def batch(self, indices: Sequence[int]) -> Batch:
        """As ``Examples.batch``; labels [batch, length] are the tokens to follow, and nothing at the padding."""
        chosen, length = [self.pieces[i] for i in indices], max(map(self.tokens, indices))
        inputs = padded([piece.inputs for piece in chosen], self.manifest)
        return {**inputs, LABELS: padded_labels([piece.labels for piece in chosen], length)}


def _answered(tokenizer: Tokenizer, row: Mapping[str, object], settings: LanguageSettings, longest: int) -> Piece:
    """A prompt's tokens as they will be at its use, when no completion follows yet, and then the completion's."""
    prompt, completion = text_of(row, "prompt"), text_of(row, "completion")
    given: list[int] = tokenizer.encode(prompt).ids
    if len(given) > longest:
        raise ValueError(f"the prompt alone has {len(given)} tokens and the bundle takes {longest}")
    both: list[int] = tokenizer.encode(prompt + completion).ids
    if both[: len(given)] != given:  # a token across the border
        both = given + tokenizer.encode(completion, add_special_tokens=False).ids
    if both[-1] != settings.end_id:  # which a chat's completion may hold already
        both = [*both, settings.end_id]
    return Piece(np.array(both[: longest + 1], np.int32), len(given))


def _cut(documents: Sequence[Tokens], length: int, settings: LanguageSettings) -> list[Piece]:
    ended = [np.append(ids, np.int32(settings.end_id)) for ids in documents]
    streams = [np.concatenate(ended)] if settings.packed and ended else ended
    pieces = [stream[i : i + length + 1] for stream in streams for i in range(0, len(stream) - 1, length)]
    return [Piece(ids) for ids in pieces if len(ids) > 1]


def read_plain(path: Path) -> str:
    """A text file.

    Raises:
        DataError: it can't be read.
        NoExamples: it is empty.
    """
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror}): check the path and its permissions.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}): convert it.") from error
    if not text.strip():
        raise NoExamples(f"{path} holds no text: give a file with some.")
    return text

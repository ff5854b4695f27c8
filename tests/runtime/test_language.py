"""Documents become sequences in which every token is predicted once."""

import json
from pathlib import Path

import numpy as np
import pytest

from ravan.bundle import Bundle
from ravan.errors import DataError, NoExamples
from ravan.runtime.examples import micro_batches
from ravan.runtime.language import Documents
from ravan.runtime.names import ATTENTION_MASK, IGNORED, INPUT_IDS, LABELS
from tests.export.test_causal_lm import with_padding

TEXTS = ["the quick brown fox jumps over the lazy dog", "a", "to be, or not to be.\nthat is the question"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return file


def predicted(documents: Documents) -> list[int]:
    """Every label that counts, in order."""
    batches = [documents.batch([i]) for i in range(len(documents))]
    return [int(label) for batch in batches for label in batch[LABELS].ravel() if label != IGNORED]


def test_packed_documents_predict_every_token_but_the_first_once(lm_bundle: Bundle, path: Path) -> None:
    documents = Documents.read(lm_bundle, path)
    tokens = [ids for text in TEXTS for ids in [*range(len(text)), -1]]
    assert len(predicted(documents)) == len(tokens) - 1
    assert predicted(documents).count(0) == len(TEXTS)  # an end after each
    assert max(len(piece.ids) for piece in documents.pieces) == lm_bundle.manifest.max_length + 1


def test_padded_documents_stay_apart(lm_bundle: Bundle, path: Path) -> None:
    documents = Documents.read(with_padding(lm_bundle), path)
    assert len(predicted(documents)) == sum(len(text) for text in TEXTS)
    assert all(0 not in piece.inputs for piece in documents.pieces)


def test_inputs_and_labels_are_one_token_apart_and_padding_counts_for_nothing(lm_bundle: Bundle, path: Path) -> None:
    documents = Documents.read(with_padding(lm_bundle), path)
    batch = documents.batch(range(len(documents)))
    ids, mask, labels = batch[INPUT_IDS], batch[ATTENTION_MASK], batch[LABELS]
    np.testing.assert_array_equal(labels[mask == 0], IGNORED)
    inside = (mask[:, 1:] == 1) & (mask[:, :-1] == 1)
    np.testing.assert_array_equal(labels[:, :-1][inside], ids[:, 1:][inside])


def test_plain_text_is_one_document(lm_bundle: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "play.txt"
    file.write_text("\n".join(TEXTS))
    assert predicted(Documents.read(lm_bundle, file)).count(0) == 1


@pytest.mark.parametrize(("content", "reason"), [(b"\xff", "not UTF-8"), (b"  ", "holds no text")])
def test_plain_text_of_no_use_says_why(lm_bundle: Bundle, tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "play.txt"
    file.write_bytes(content)
    with pytest.raises(DataError, match=reason):
        Documents.read(lm_bundle, file)
    with pytest.raises(DataError, match="can't be read"):
        Documents.read(lm_bundle, tmp_path / "absent.txt")


def test_a_file_without_text_is_refused(lm_bundle: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text('{"body": "x"}\n')
    with pytest.raises(DataError, match="line 1: no text"):
        Documents.read(lm_bundle, file)
    with pytest.raises(NoExamples, match="text or prompt and completion fields"):
        Documents.read(lm_bundle, file, skip_bad=True)


def test_micro_batches_hold_every_sequence_once(lm_bundle: Bundle, path: Path) -> None:
    documents = Documents.read(lm_bundle, path)
    parts = micro_batches(documents, range(len(documents)), 32)
    assert sum(len(part[LABELS]) for part in parts) == len(documents)
    assert all(part[INPUT_IDS].size <= 32 for part in parts)

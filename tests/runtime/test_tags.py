"""A word's tag goes to its first token, and what is wrong with a row is named by file and line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ravan.bundle import Bundle, Task
from ravan.errors import DataError, NoExamples
from ravan.runtime.checks import check_labels
from ravan.runtime.examples import read_examples
from ravan.runtime.names import ATTENTION_MASK, IGNORED, INPUT_IDS, LABELS
from ravan.runtime.tags import TaggedTexts
from tests.families.test_text import TAGS, byte_pairs, pieces, words

GOOD: dict[str, Any] = {
    "tokens": ["the", "old", "apple", "near", "one", "hammer"],
    "tags": ["O", "O", "FRUIT", 0, "O", "TOOL"],
}
SHORT = {"tokens": ["a", "horse"], "tags": ["O", "ANIMAL"]}


def tagging(bundle: Bundle, tokenizer: PreTrainedTokenizerFast, folder: Path, longest: int = 32) -> Bundle:
    """A bundle for tags, as far as reading data goes."""
    tokenizer.save_pretrained(folder)
    manifest = replace(bundle.manifest, task=Task.TOKEN_CLASSIFICATION, labels=TAGS, max_length=longest, pad_id=1)
    return Bundle(folder, manifest)


@pytest.fixture
def tags(bundle: Bundle, tmp_path: Path) -> Bundle:
    return tagging(bundle, byte_pairs(), tmp_path)


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.mark.parametrize("tokenizer", [byte_pairs, pieces, words])
def test_tokens_and_labels_are_those_of_transformers_examples(bundle: Bundle, tokenizer: Any, tmp_path: Path) -> None:
    made = tagging(bundle, tokenizer(), tmp_path)
    examples = read_examples(made, write(tmp_path / "data.jsonl", GOOD))
    reference = AutoTokenizer.from_pretrained(tmp_path, add_prefix_space=True)
    if tokenizer is byte_pairs:  # which run_ner.py asks for, and a tokenizer without a class of its own passes by
        reference.backend_tokenizer.pre_tokenizer.add_prefix_space = True
    expected = reference(GOOD["tokens"], is_split_into_words=True)
    word_ids, tag_ids = expected.word_ids(), [0, 0, 1, 0, 0, 2]
    first = [word is not None and word != before for before, word in zip([None, *word_ids], word_ids, strict=False)]
    labels = [tag_ids[word] if new else IGNORED for new, word in zip(first, word_ids, strict=True)]
    batch, count = examples.batch([0]), len(expected["input_ids"])
    assert batch[INPUT_IDS][0, :count].tolist() == expected["input_ids"]
    assert batch[LABELS][0, :count].tolist() == labels
    assert sum(label != IGNORED for label in labels) == len(GOOD["tokens"])
    assert not batch[ATTENTION_MASK][0, count:].any()
    assert (batch[LABELS][0, count:] == IGNORED).all()


def test_a_batch_fills_short_texts_with_nothing_that_counts(tags: Bundle, tmp_path: Path) -> None:
    batch = TaggedTexts.read(tags, write(tmp_path / "data.jsonl", GOOD, SHORT)).batch([0, 1])
    assert batch[INPUT_IDS].shape == batch[LABELS].shape
    assert [int((row != IGNORED).sum()) for row in batch[LABELS]] == [6, 2]
    assert (batch[LABELS][batch[ATTENTION_MASK] == 0] == IGNORED).all()
    check_labels(tags.manifest, batch)


def test_words_behind_the_longest_length_are_cut_with_their_tags(bundle: Bundle, tmp_path: Path) -> None:
    long = {"tokens": GOOD["tokens"] * 10, "tags": GOOD["tags"] * 10}
    batch = TaggedTexts.read(tagging(bundle, words(), tmp_path, 16), write(tmp_path / "d.jsonl", long)).batch([0])
    assert batch[INPUT_IDS].shape == (1, 16)
    assert (batch[LABELS] != IGNORED).sum() == 14  # the first and the last are special


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "2 tokens and 1 tags"),
        ({"tokens": "a b", "tags": ["O", "O"]}, "tokens is no list of words"),
        ({"tokens": ["a", 3], "tags": ["O", "O"]}, "tokens is no list of words"),
        ({"tags": ["O"]}, "tokens is no list of words"),
        ({"tokens": ["a"]}, "tags is no list"),
        ({"tokens": ["a"], "tags": ["BIRD"]}, "unknown tag 'BIRD'"),
        ({"tokens": ["a"], "tags": [4]}, "unknown tag 4"),
        ({"tokens": ["a"], "tags": [-100]}, "unknown tag -100"),
        ({"tokens": [], "tags": []}, "no tokens"),
        ({"tokens": ["\ud800"], "tags": ["O"]}, "not UTF-8"),
    ],
)
def test_a_bad_row_is_named_and_skipped_only_when_asked(
    tags: Bundle, tmp_path: Path, row: dict[str, object], reason: str
) -> None:
    path = write(tmp_path / "data.jsonl", GOOD, row, SHORT)
    with pytest.raises(DataError, match=rf"data.jsonl, line 2: {reason}.*--skip-bad"):
        TaggedTexts.read(tags, path)
    data = TaggedTexts.read(tags, path, skip_bad=True)
    assert (len(data), data.skipped) == (2, 1)


def test_words_that_the_tokenizer_drops_make_no_example(bundle: Bundle, tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", {"tokens": [" ", ""], "tags": ["O", "O"]})
    with pytest.raises(DataError, match="line 1: no tokens"):
        TaggedTexts.read(tagging(bundle, words(), tmp_path), path)


def test_a_table_is_refused_with_what_to_write_instead(tags: Bundle, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("tokens,tags\na b,O O\n")
    with pytest.raises(DataError, match=r"data.csv: .* write them as JSONL"):
        TaggedTexts.read(tags, tmp_path / "data.csv")


def test_no_row_of_use_is_said(tags: Bundle, tmp_path: Path) -> None:
    with pytest.raises(NoExamples, match="tokens and tags fields"):
        TaggedTexts.read(tags, write(tmp_path / "data.jsonl", {"text": "x"}), skip_bad=True)


def test_labels_are_checked_before_they_reach_the_graph(tags: Bundle) -> None:
    for labels, reason in (([[IGNORED, 4]], "A label is 4"), ([[IGNORED, IGNORED]], "no label")):
        with pytest.raises(DataError, match=reason):
            check_labels(tags.manifest, {LABELS: np.array(labels)})

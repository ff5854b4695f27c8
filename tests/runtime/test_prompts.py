"""Prompts with their completions: only the completion is learned, and examples are never joined."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from ravan.bundle import TOKENIZER, Bundle
from ravan.errors import DataError
from ravan.runtime.language import Documents
from ravan.runtime.names import IGNORED, INPUT_IDS, LABELS
from ravan.runtime.session import TrainStep
from tests.export.test_causal_lm import start

END = 0
ROWS = [{"prompt": "one and ", "completion": "two"}, {"prompt": "say a", "completion": ", b, c."}]


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def letters(bundle: Bundle, text: str) -> list[int]:
    found: list[int] = Tokenizer.from_file(str(bundle.path(TOKENIZER))).encode(text).ids
    return found


def test_every_token_of_the_completion_and_its_end_is_learned_and_none_of_the_prompt(
    lm_bundle: Bundle, tmp_path: Path
) -> None:
    documents = Documents.read(lm_bundle, write(tmp_path / "data.jsonl", *ROWS))
    assert len(documents) == len(ROWS)
    for i, row in enumerate(ROWS):
        batch = documents.batch([i])
        given, learned = letters(lm_bundle, row["prompt"]), [*letters(lm_bundle, row["completion"]), END]
        expected = [IGNORED] * (len(given) - 1) + learned
        np.testing.assert_array_equal(batch[LABELS][0, : len(expected)], expected)
        assert (batch[LABELS][0, len(expected) :] == IGNORED).all()
        assert batch[INPUT_IDS][0, : len(expected)].tolist() == [*given, *learned[:-1]]


def test_examples_stay_apart_also_where_documents_are_packed(lm_bundle: Bundle, tmp_path: Path) -> None:
    assert lm_bundle.manifest.language is not None
    assert lm_bundle.manifest.language.packed
    rows = [*ROWS, {"text": "a document"}, {"text": "another one"}]
    documents = Documents.read(lm_bundle, write(tmp_path / "data.jsonl", *rows))
    assert len(documents) == len(ROWS) + 2  # the two documents make a full piece and a rest
    assert [piece.given for piece in documents.pieces] == [8, 5, 1, 1]


def test_a_prompts_tokens_are_those_of_the_prompt_alone(lm_bundle: Bundle, tmp_path: Path) -> None:
    """A token across the border of both would never be seen when the model is asked."""
    tokenizer = json.loads(lm_bundle.path(TOKENIZER).read_text())
    vocabulary = tokenizer["model"]["vocab"]
    del vocabulary["z"], vocabulary["x"]
    vocabulary |= {"ab": len(vocabulary), "bc": len(vocabulary) + 1}
    tokenizer["model"]["merges"] = [["a", "b"], ["b", "c"]]
    (tmp_path / TOKENIZER).write_text(json.dumps(tokenizer))
    bundle = Bundle(tmp_path, lm_bundle.manifest)
    whole, parted = (
        {"prompt": prompt, "completion": completion} for prompt, completion in (("d", "abc"), ("da", "bc"))
    )
    documents = Documents.read(bundle, write(tmp_path / "data.jsonl", whole, parted))
    assert documents.pieces[0].ids.tolist() == [vocabulary[t] for t in ("d", "ab", "c")] + [END]
    assert documents.pieces[1].ids.tolist() == [vocabulary[t] for t in ("d", "a", "bc")] + [END]
    assert [piece.given for piece in documents.pieces] == [1, 2]


def test_a_completion_that_ends_itself_gets_no_second_end(lm_bundle: Bundle, tmp_path: Path) -> None:
    rows = [{"prompt": "ab", "completion": "cd"}, {"prompt": "ab", "completion": "cd<end>"}]
    one, other = Documents.read(lm_bundle, write(tmp_path / "data.jsonl", *rows)).pieces
    assert one.ids.tolist() == other.ids.tolist() == [*letters(lm_bundle, "abcd"), END]


def test_a_long_completion_is_cut_at_its_end(lm_bundle: Bundle, tmp_path: Path) -> None:
    rows = {"prompt": "abc", "completion": "d" * 100}
    (piece,) = Documents.read(lm_bundle, write(tmp_path / "data.jsonl", rows)).pieces
    assert len(piece.inputs) == lm_bundle.manifest.max_length
    assert (piece.labels != IGNORED).sum() == lm_bundle.manifest.max_length - 2


def test_a_table_may_hold_either(lm_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text('prompt,completion\n"one and ",two\nsay a,", b, c."\n')
    by_row = Documents.read(lm_bundle, tmp_path / "data.csv")
    by_line = Documents.read(lm_bundle, write(tmp_path / "data.jsonl", *ROWS))
    for one, other in zip(by_row.pieces, by_line.pieces, strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
    (tmp_path / "data.csv").write_text("prompt,answer\na,b\n")
    with pytest.raises(DataError, match="no column text, or completion;"):
        Documents.read(lm_bundle, tmp_path / "data.csv")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a"}, "no completion"),
        ({"completion": "a"}, "no prompt"),
        ({"prompt": "a", "completion": " "}, "no completion"),
        ({"prompt": "a" * 17, "completion": "b"}, "the prompt alone has 17 tokens and the bundle takes 16"),
        (
            {"messages": [{"role": "user", "content": "a"}]},
            "messages need a chat template.*write prompt and completion",
        ),
        ({"answer": "a"}, "no text"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(
    lm_bundle: Bundle, tmp_path: Path, row: dict[str, object], reason: str
) -> None:
    path = write(tmp_path / "data.jsonl", ROWS[0], row)
    with pytest.raises(DataError, match=rf"data.jsonl, line 2: {reason}"):
        Documents.read(lm_bundle, path)
    assert len(Documents.read(lm_bundle, path, skip_bad=True)) == 1


def test_a_prompts_tokens_count_for_nothing_in_the_loss(lm_bundle: Bundle, tmp_path: Path) -> None:
    batch = Documents.read(lm_bundle, write(tmp_path / "data.jsonl", ROWS[0])).batch([0])
    assert TrainStep(lm_bundle)(start(lm_bundle), batch).weight == len("two") + 1

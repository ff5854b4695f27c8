"""Reading private data: what is wrong is named by file and line, and left out only when asked."""

from pathlib import Path

import numpy as np
import pytest

from ravan.bundle import Bundle
from ravan.errors import DataError, NoExamples
from ravan.runtime.examples import in_order_of_size
from ravan.runtime.names import ATTENTION_MASK, INPUT_IDS, LABELS
from ravan.runtime.text import LabelledTexts
from tests.conftest import sentences, write_rows

GOOD = b'{"text": "the apple", "label": "fruit"}\n'


def test_jsonl_and_csv_give_the_same_examples(bundle: Bundle, tmp_path: Path) -> None:
    jsonl, table = tmp_path / "a.jsonl", tmp_path / "a.csv"
    jsonl.write_text(
        '{"text": "a \\"quoted\\", plum\\nand more", "label": "fruit"}\n{"text": "saw", "label": 1, "id": 7}\n'
    )
    table.write_text('id,label,text\n1,fruit,"a ""quoted"", plum\nand more"\n2,tool,saw\n')
    by_line, by_row = (LabelledTexts.read(bundle, path) for path in (jsonl, table))
    assert list(by_line.labels) == list(by_row.labels) == [0, 1]
    for one, other in zip(by_line.ids, by_row.ids, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "x", "label": "fruit"', "not JSON"),
        (b'"just a string"', "not an object"),
        (b'{"label": "fruit"}', "no text"),
        (b'{"text": "  ", "label": "fruit"}', "no text"),
        (b'{"text": 5, "label": "fruit"}', "no text"),
        (b'{"text": "x"}', "unknown label None"),
        (b'{"text": "x", "label": "bird"}', "unknown label 'bird'"),
        (b'{"text": "x", "label": 3}', "unknown label 3"),
        (b'{"text": "x", "label": -1}', "unknown label -1"),
        (b'{"text": "x", "label": true}', "unknown label True"),
        (b'{"text": "\xff", "label": "fruit"}', "not UTF-8"),
        (b'{"text": "\\ud800", "label": "fruit"}', "not UTF-8"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_bad_line_is_named_and_skipped_only_when_asked(
    bundle: Bundle, tmp_path: Path, line: bytes, reason: str
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(GOOD + line + b"\n" + GOOD)
    with pytest.raises(DataError, match=rf"data.jsonl, line 2: {reason}.*--skip-bad"):
        LabelledTexts.read(bundle, path)
    data = LabelledTexts.read(bundle, path, skip_bad=True)
    assert (len(data), data.skipped) == (2, 1)


def test_bad_rows_of_a_table_are_named_by_line(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(b"text,label\napple,fruit\n\xff,fruit\nsaw\n,tool\n")
    with pytest.raises(DataError, match="line 3: not UTF-8"):
        LabelledTexts.read(bundle, path)
    assert LabelledTexts.read(bundle, path, skip_bad=True).skipped == 3


def test_a_table_without_its_columns_says_which(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("body,label\napple,fruit\n")
    with pytest.raises(DataError, match="no column text"):
        LabelledTexts.read(bundle, path)


def test_a_broken_table_is_named(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text('text,label\n"apple"x,fruit\n')
    with pytest.raises(DataError, match=r"line 2: not CSV"):
        LabelledTexts.read(bundle, path)


def test_a_file_without_a_usable_line_has_its_own_error(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    for content in (b"", b"\n\n", b"nonsense\n"):
        path.write_bytes(content)
        with pytest.raises(NoExamples):
            LabelledTexts.read(bundle, path, skip_bad=True)


def test_other_files_are_refused_by_a_sentence(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither JSONL nor CSV"):
        LabelledTexts.read(bundle, tmp_path / "data.parquet")
    with pytest.raises(DataError, match="can't be read"):
        LabelledTexts.read(bundle, tmp_path / "absent.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(DataError, match="can't be read"):
        LabelledTexts.read(bundle, tmp_path / "folder.jsonl")


def test_batches_are_padded_masked_and_cut(bundle: Bundle, tmp_path: Path) -> None:
    rows = [{"text": "the apple", "label": "fruit"}, {"text": "old " * 50, "label": "tool"}]
    texts = LabelledTexts.read(bundle, write_rows(tmp_path / "a.jsonl", rows))
    assert [len(i) for i in texts.ids] == [4, 16]
    batch = texts.batch([0, 1])
    assert batch[INPUT_IDS].shape == (2, 16)
    np.testing.assert_array_equal(batch[ATTENTION_MASK].sum(axis=1), [4, 16])
    assert (batch[INPUT_IDS][0, 4:] == bundle.manifest.pad_id).all()
    np.testing.assert_array_equal(batch[LABELS], [0, 1])


def test_evaluation_batches_hold_every_example_once(bundle: Bundle, tmp_path: Path) -> None:
    texts = LabelledTexts.read(bundle, write_rows(tmp_path / "a.jsonl", sentences(50, 0)))
    batches = list(in_order_of_size(texts, 8))
    assert sum(len(b[LABELS]) for b in batches) == 50
    lengths = [int(b[ATTENTION_MASK].sum(axis=1).max()) for b in batches]
    assert lengths == sorted(lengths)

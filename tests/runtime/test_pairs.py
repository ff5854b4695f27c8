"""Sources and targets become batches whose padding counts for nothing."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from ravan.bundle import TOKENIZER, Bundle
from ravan.errors import DataError, NoExamples
from ravan.runtime.examples import in_order_of_size, micro_batches
from ravan.runtime.names import ATTENTION_MASK, DECODER_INPUT_IDS, IGNORED, INPUT_IDS, LABELS
from ravan.runtime.pairs import Pairs, encode_targets
from tests.conftest import LABELS as NAMES
from tests.conftest import sentences, write_rows
from tests.seq2seq import END, PAD

ROWS = [
    {"source": "the old pear near a saw", "target": "fruit tool"},
    {"source": "a crow", "target": "animal"},
    {"source": " ".join(["new"] * 40), "target": " ".join(["one"] * 40)},
]


@pytest.fixture
def pairs(t5_bundle: Bundle, tmp_path: Path) -> Pairs:
    return Pairs.read(t5_bundle, write_rows(tmp_path / "data.jsonl", ROWS))


def with_prefix(bundle: Bundle, prefix: str) -> Bundle:
    settings = bundle.manifest.seq2seq
    assert settings is not None
    return Bundle(bundle.folder, replace(bundle.manifest, seq2seq=replace(settings, prefix=prefix)))


def words(bundle: Bundle, ids: np.ndarray) -> str:
    return Tokenizer.from_file(str(bundle.path(TOKENIZER))).decode(ids.tolist())


def test_the_decoder_starts_with_the_start_token_and_reads_each_label_one_place_later(pairs: Pairs) -> None:
    batch = pairs.batch([0, 1])
    labels, shifted = batch[LABELS], batch[DECODER_INPUT_IDS]
    assert shifted.shape == labels.shape == (2, 8)
    assert (shifted[:, 0] == PAD).all()
    counted = labels[:, :-1] != IGNORED
    followed = counted & (labels[:, 1:] != IGNORED)
    np.testing.assert_array_equal(shifted[:, 1:][followed], labels[:, :-1][followed])
    assert [int(row[row != IGNORED][-1]) for row in labels] == [END, END]
    np.testing.assert_array_equal((labels != IGNORED).sum(axis=1), [5, 3])


def test_long_texts_are_cut_before_their_end_token(pairs: Pairs, t5_bundle: Bundle) -> None:
    batch = pairs.batch([2])
    assert batch[INPUT_IDS].shape == (1, t5_bundle.manifest.max_length)
    assert batch[INPUT_IDS][0, -1] == END
    assert batch[LABELS][0, -1] == END
    assert (batch[LABELS] != IGNORED).all()
    assert batch[ATTENTION_MASK].all()


def test_every_source_begins_with_the_prefix(t5_bundle: Bundle, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "data.jsonl", ROWS[:1])
    read = Pairs.read(with_prefix(t5_bundle, "small "), path)
    assert words(t5_bundle, read.sources[0]).startswith("small the old pear")


def test_a_label_is_written_by_its_name(label_bundle: Bundle, tmp_path: Path) -> None:
    rows = sentences(6, 0)
    read = Pairs.read(label_bundle, write_rows(tmp_path / "data.jsonl", rows))
    assert [words(label_bundle, target) for target in read.targets] == [row["label"] for row in rows]
    path = tmp_path / "indices.jsonl"
    path.write_text(json.dumps({"text": "a pear", "label": 2}))
    assert words(label_bundle, Pairs.read(label_bundle, path).targets[0]) == NAMES[2]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"source": "a crow"}, "line 1: no target"),
        ({"target": "animal"}, "line 1: no source"),
        ({"text": "a crow", "label": "animal"}, "line 1: no source"),
        ({"source": "  ", "target": "animal"}, "line 1: no source"),
        ({"source": "a crow", "target": 3}, "line 1: no target"),
    ],
)
def test_a_row_that_is_no_pair_says_what_it_lacks(
    t5_bundle: Bundle, tmp_path: Path, row: dict[str, object], reason: str
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=reason):
        Pairs.read(t5_bundle, path)
    with pytest.raises(NoExamples, match="check its target and source fields"):
        Pairs.read(t5_bundle, path, skip_bad=True)


def test_a_label_of_another_bundle_is_refused(label_bundle: Bundle, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "data.jsonl", [{"text": "a crow", "label": "vehicle"}])
    with pytest.raises(DataError, match="line 1: unknown label 'vehicle'"):
        Pairs.read(label_bundle, path)


def test_a_table_names_its_columns(t5_bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("source,target\na crow,animal\n")
    assert len(Pairs.read(t5_bundle, path)) == 1
    path.write_text("source,answer\na crow,animal\n")
    with pytest.raises(DataError, match="no column target"):
        Pairs.read(t5_bundle, path)


def some(bundle: Bundle, sizes: list[tuple[int, int]]) -> Pairs:
    """Pairs of so many tokens each."""
    sources, targets = ([np.full(n, 5, np.int32) for n in numbers] for numbers in zip(*sizes, strict=True))
    longest = -(-max(map(len, targets)) // 8) * 8
    return Pairs(bundle.manifest, sources, targets, longest)


@given(st.lists(st.tuples(st.integers(1, 16), st.integers(1, 8)), min_size=1, max_size=12), st.integers(32, 200))
def test_a_micro_batch_never_holds_more_tokens_than_allowed(
    t5_bundle: Bundle, sizes: list[tuple[int, int]], most: int
) -> None:
    pairs = some(t5_bundle, sizes)
    parts = micro_batches(pairs, range(len(pairs)), most)
    assert sum(len(part[LABELS]) for part in parts) == len(pairs)
    assert all(part[INPUT_IDS].size + part[DECODER_INPUT_IDS].size <= most for part in parts)
    assert sum(len(batch[LABELS]) for batch in in_order_of_size(pairs, 4)) == len(pairs)


@given(st.lists(st.integers(2, 30), max_size=12), st.integers(2, 12))
def test_a_target_has_one_end_however_the_tokenizer_ends_texts(t5_bundle: Bundle, ids: list[int], longest: int) -> None:
    ending = Tokenizer.from_file(str(t5_bundle.path(TOKENIZER)))
    bare = Tokenizer.from_file(str(t5_bundle.path(TOKENIZER)))
    bare.post_processor = None
    text = " ".join(str(ending.id_to_token(i)) for i in ids)
    for tokenizer in (ending, bare):
        (target,) = encode_targets(tokenizer, [text], END, longest)
        assert target.tolist() == [*ids[: longest - 1], END]

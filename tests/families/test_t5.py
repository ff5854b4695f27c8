"""Sequence to sequence by every model of the T5 family, from a model folder to a merged model."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from transformers import MT5Config, UMT5Config

from export.seq2seq import seq2seq
from tests.conftest import LABELS, VOCABULARY, sentences, write_rows
from tests.e2e.processes import edge_python
from tests.families.harness import NOTHING, Family, Figures, check_family, every
from tests.seq2seq import write_t5

ADAPTED = "q, v (of SelfAttention)"
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
write = partial(write_t5, words=VOCABULARY, in_two=LABELS)
recipe = partial(seq2seq, max_length=16, max_target=8)


def questions(folder: Path) -> Path:
    """A sentence, and what kind of thing is in it, in two or three words."""
    rows = [
        {"source": row["text"], "target": f"{'one ' * (i % 2)}{row['label']}"} for i, row in enumerate(sentences(48, 1))
    ]
    return write_rows(folder / "data.jsonl", rows)


def family(model: str, make: Callable[[Path], None]) -> Family:
    return Family(model, "seq2seq", ADAPTED, NOTHING, recipe, make, questions)


FAMILIES = (
    family("T5", write),
    family("T5 v1.1, FLAN-T5", partial(write, own_output=True, num_decoder_layers=1, **GATED)),
    family("mT5", partial(write, kind=MT5Config, own_output=True, num_layers=1, **GATED)),
    family("umT5", partial(write, kind=UMT5Config, num_layers=1, **GATED)),
)


@pytest.mark.parametrize("family", every(FAMILIES))
def test_a_family_goes_all_the_way(family: Family, tmp_path: Path, report: Callable[[Family, Figures], None]) -> None:
    report(family, check_family(family, tmp_path, edge_python()))

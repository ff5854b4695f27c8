"""Text classifiers of every family, from a model folder to a merged model."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from export.text_classifier import text_classifier
from tests.conftest import LABELS, MAX_LENGTH, VOCABULARY, sentences, write_rows
from tests.e2e.processes import edge_python
from tests.families.harness import Family, Figures, check_family
from tests.families.words import SPECIAL, word_tokenizer


def write_bert(folder: Path) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(SPECIAL) + len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        initializer_range=0.2,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    word_tokenizer(VOCABULARY).save_pretrained(folder)


def labelled(folder: Path) -> Path:
    return write_rows(folder / "data.jsonl", sentences(48, 1))


FAMILIES = (
    Family(
        "BERT",
        "text-classification",
        "query, value",
        "pooler, classifier",
        partial(text_classifier, labels=LABELS, max_length=MAX_LENGTH),
        write_bert,
        labelled,
    ),
)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_a_family_goes_all_the_way(family: Family, tmp_path: Path, report: Callable[[Family, Figures], None]) -> None:
    report(family, check_family(family, tmp_path, edge_python()))

"""Classifiers of texts and of their words, every family, from a model folder to a merged model."""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
)

from export.text_classifier import text_classifier
from export.token_classifier import token_classifier
from tests.conftest import LABELS, MAX_LENGTH, VOCABULARY, WORDS, sentences, write_rows
from tests.e2e.processes import edge_python
from tests.families.harness import Family, Figures, check_family, every
from tests.families.words import byte_tokenizer, piece_tokenizer, word_tokenizer

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
    "initializer_range": 0.2,  # wide enough that so small a model tells words apart
}
DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
BYTES = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
MODERNBERT = {**BYTES, "global_attn_every_n_layers": 2, "local_attention": 8}
TAGS = ("O", "FRUIT", "TOOL", "ANIMAL")


def words() -> PreTrainedTokenizerFast:
    return word_tokenizer(VOCABULARY)


def byte_pairs() -> PreTrainedTokenizerFast:
    return byte_tokenizer((f" {word}" for word in VOCABULARY), 60, enclosed=True)  # too few for whole words


def pieces() -> PreTrainedTokenizerFast:
    return piece_tokenizer(VOCABULARY)


def write(
    kind: Callable[..., PreTrainedConfig],
    tokenizer: Callable[[], PreTrainedTokenizerFast],
    sizes: Mapping[str, Any],
    folder: Path,
) -> None:
    torch.manual_seed(0)
    AutoModel.from_config(kind(vocab_size=len(tokenizer()), **{**SIZES, **sizes})).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def labelled(folder: Path) -> Path:
    return write_rows(folder / "data.jsonl", sentences(48, 1))


def tagged(folder: Path) -> Path:
    """The same sentences, each telling word with its kind as a tag."""
    kinds = {word: kind.upper() for kind, group in WORDS.items() for word in group}
    lists = [row["text"].split() for row in sentences(48, 1)]
    rows = [{"tokens": tokens, "tags": [kinds.get(token, "O") for token in tokens]} for tokens in lists]
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def both(
    model: str,
    adapted: str,
    saved: tuple[str, str],
    kind: Callable[..., PreTrainedConfig],
    tokenizer: Callable[[], PreTrainedTokenizerFast],
    sizes: Mapping[str, Any],
) -> Iterator[Family]:
    """A model for texts and for words; ``saved`` likewise."""
    make = partial(write, kind, tokenizer, sizes)
    texts = partial(text_classifier, labels=LABELS, max_length=MAX_LENGTH)
    yield Family(model, "text-classification", adapted, saved[0], texts, make, labelled)
    words = partial(token_classifier, labels=TAGS, max_length=MAX_LENGTH)
    yield Family(model, "token-classification", adapted, saved[1], words, make, tagged)


ALONE = ("classifier", "classifier")
FAMILIES = (
    *both("BERT", "query, value", ("pooler, classifier", "classifier"), BertConfig, words, {}),
    *both("RoBERTa", "query, value", ALONE, RobertaConfig, byte_pairs, BYTES),
    *both("XLM-R", "query, value", ALONE, XLMRobertaConfig, pieces, BYTES),
    *both("ELECTRA", "query, value", ALONE, ElectraConfig, words, {"embedding_size": 16}),
    *both(
        "DistilBERT", "q_lin, v_lin", ("pre_classifier, classifier", "classifier"), DistilBertConfig, words, DISTILBERT
    ),
    *both("ModernBERT", "query, value (of Wqkv)", ("head, classifier",) * 2, ModernBertConfig, byte_pairs, MODERNBERT),
)


@pytest.mark.parametrize("family", every(FAMILIES))
def test_a_family_goes_all_the_way(family: Family, tmp_path: Path, report: Callable[[Family, Figures], None]) -> None:
    report(family, check_family(family, tmp_path, edge_python()))

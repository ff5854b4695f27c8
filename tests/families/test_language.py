"""Language models of every family, from a model folder to a merged model."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from export.causal_lm import causal_lm
from tests.conftest import write_rows
from tests.e2e.processes import edge_python
from tests.families.harness import NOTHING, Family, Figures, check_family, every
from tests.families.words import byte_tokenizer

LINE = "the same line again, and the same line again."
TOKENS = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": None}
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "sliding_window": 6,  # shorter than a sequence
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.2}


def write(kind: Callable[..., PreTrainedConfig], sizes: dict[str, Any], folder: Path) -> None:
    torch.manual_seed(0)
    tokenizer = byte_tokenizer([LINE], 40, enclosed=False)
    AutoModelForCausalLM.from_config(kind(vocab_size=len(tokenizer), **TOKENS, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def lines(folder: Path) -> Path:
    return write_rows(folder / "data.jsonl", [{"text": LINE}] * 24)


def family(model: str, kind: Callable[..., PreTrainedConfig], adapted: str, sizes: dict[str, Any]) -> Family:
    recipe, make = partial(causal_lm, max_length=16), partial(write, kind, sizes)
    return Family(model, "causal-lm", adapted, NOTHING, recipe, make, lines)


FAMILIES = (
    family("LLaMA, SmolLM", LlamaConfig, "q_proj, v_proj", SIZES),
    family("Mistral", MistralConfig, "q_proj, v_proj", SIZES),
    family("Qwen2", Qwen2Config, "q_proj, v_proj", SIZES),
    family("Qwen3", Qwen3Config, "q_proj, v_proj", SIZES),
    family("Gemma", GemmaConfig, "q_proj, v_proj", SIZES),
    family("Gemma 2", Gemma2Config, "q_proj, v_proj", SIZES),
    family("Gemma 3", Gemma3TextConfig, "q_proj, v_proj", SIZES),
    family("GPT-2", GPT2Config, "query, value (of c_attn)", GPT2),
)


@pytest.mark.parametrize("family", every(FAMILIES))
def test_a_family_goes_all_the_way(family: Family, tmp_path: Path, report: Callable[[Family, Figures], None]) -> None:
    report(family, check_family(family, tmp_path, edge_python()))

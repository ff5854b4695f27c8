"""A Llama of random weights with a tokenizer of single characters, tiny unless told otherwise."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LETTERS = ("<end>", "<unknown>", *"abcdefghijklmnopqrstuvwxyz ,.\n")
TINY: Mapping[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
    "initializer_range": 0.2,
}


def write_llama(folder: Path, **sizes: Any) -> Path:
    """The model as transformers saves it; ``sizes`` replace those of ``TINY``."""
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(LETTERS)}, [], unk_token="<unknown>"))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token="<unknown>")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(LETTERS), **{**TINY, **sizes})).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder

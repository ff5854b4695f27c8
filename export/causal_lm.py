"""A transformers causal language model as a training bundle for next-token prediction."""

from functools import partial
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from export.architectures import CAUSAL_LMS, defaults_for
from export.recipe import Example, Recipe
from export.text_classifier import DEFAULT_MAX_LENGTH, SEQUENCE_AXES, random_tokens
from export.transformers_io import load_model, load_tokenizer, longest_input, save
from ravan.bundle import Task
from ravan.errors import ExportError
from ravan.runtime.names import ATTENTION_MASK, IGNORED
from ravan.writing import LanguageSettings


def causal_lm(model: str | Path, max_length: int = DEFAULT_MAX_LENGTH, seed: int = 0, *, packed: bool = True) -> Recipe:
    """The recipe for a folder, a hub id or a GGUF file.

    Args:
        model: folder, hub id, or path of a .gguf file.
        max_length: tokens of a training sequence.
        seed: of modules that the checkpoint lacks.
        packed: documents are joined and cut into full sequences; else each is cut on its own and padded.

    Raises:
        ExportError: transformers can't load it, or its tokenizer has no end token.
    """
    loaded = load_model(AutoModelForCausalLM, model, seed)
    loaded.config.use_cache = False
    tokenizer = load_tokenizer(model)
    if tokenizer.eos_token_id is None:
        raise ExportError(f"{model} needs a tokenizer with an end token: set one and save the tokenizer again.")
    longest = min(max_length, longest_input(loaded))
    vocabulary, end_id = int(loaded.config.vocab_size), int(tokenizer.eos_token_id)
    pad_id = tokenizer.pad_token_id
    return Recipe(
        task=Task.CAUSAL_LM,
        model=loaded,
        architecture=partial(defaults_for, CAUSAL_LMS, loaded.config.model_type),
        axes=SEQUENCE_AXES,
        longest=longest,
        example=partial(_example, loaded, longest),
        save=partial(save, loaded, tokenizer),
        settings={
            "labels": (),
            "max_length": longest,
            "pad_id": end_id if pad_id is None or pad_id >= vocabulary else int(pad_id),
            "language": LanguageSettings(vocabulary, end_id, packed),
        },
    )


def _example(model: PreTrainedModel, longest: int, rows: int, length: int) -> Example:
    """Labels follow the inputs at random places, none where the mask is 0 and at a few more."""
    vocabulary = int(model.config.vocab_size)
    batch = random_tokens(vocabulary, rows, min(length, longest))
    labels = torch.randint(
        0, vocabulary, tuple(batch[ATTENTION_MASK].shape), generator=torch.Generator().manual_seed(1)
    )
    labels[batch[ATTENTION_MASK] == 0] = IGNORED
    labels[-1, ::3] = IGNORED
    return Example(batch, labels)

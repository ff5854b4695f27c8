"""A transformers sequence-to-sequence model, such as T5, as a training bundle: to write targets, or labels' names."""

from collections import defaultdict
from functools import partial
from pathlib import Path

import torch
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, PreTrainedTokenizerBase

from export.architectures import SEQ2SEQ_MODELS, defaults_for
from export.recipe import Example, Recipe
from export.text_classifier import DEFAULT_MAX_LENGTH, SEQUENCE_AXES, random_tokens
from export.transformers_io import load_model, load_tokenizer, save
from ravan.bundle import Task
from ravan.errors import ExportError
from ravan.runtime.names import ATTENTION_MASK, DECODER_INPUT_IDS, IGNORED
from ravan.runtime.pairs import encode_targets
from ravan.runtime.text import PAD_TO
from ravan.writing import Seq2SeqSettings

DEFAULT_MAX_TARGET = 64
AXES = {**SEQUENCE_AXES, DECODER_INPUT_IDS: {0: "batch", 1: "target"}}


def seq2seq(
    model: str | Path,
    labels: tuple[str, ...] = (),
    max_length: int = DEFAULT_MAX_LENGTH,
    max_target: int | None = None,
    seed: int = 0,
    *,
    prefix: str = "",
) -> Recipe:
    """The recipe for a folder or hub id; with ``labels`` to classify by writing their names.

    Args:
        model: folder or hub id.
        labels: the names to write, none for any text.
        max_length: longest source, tokens.
        max_target: longest target, tokens, its end included; by default 64, or as the labels need.
        seed: of modules that the checkpoint lacks.
        prefix: text that every source begins with.

    Raises:
        ExportError: transformers can't load it, it lacks a token that sequences begin or end with, or the labels
            can't be told apart.
    """
    loaded, tokenizer = load_model(AutoModelForSeq2SeqLM, model, seed), load_tokenizer(model)
    loaded.get_decoder().config.use_cache = False  # of the decoder alone, so that what is saved may generate with one
    end_id = _needed(model, "an end token in its tokenizer", tokenizer.eos_token_id)
    settings = Seq2SeqSettings(
        vocabulary=int(loaded.config.vocab_size),
        start_id=_needed(model, "a decoder_start_token_id in its config", _start_id(loaded)),
        end_id=end_id,
        max_target=_longest_target(tokenizer, labels, end_id, max_target),
        prefix=prefix,
    )
    pad_id = _needed(model, "a pad token in its tokenizer", tokenizer.pad_token_id)
    return Recipe(
        task=Task.SEQ2SEQ,
        model=loaded,
        architecture=partial(defaults_for, SEQ2SEQ_MODELS, loaded.config.model_type),
        axes=AXES,
        longest=max_length,
        longest_axes={"length": max_length, "target": settings.max_target},
        example=partial(_example, settings, max_length),
        save=partial(save, loaded, tokenizer),
        settings={"labels": labels, "max_length": max_length, "pad_id": pad_id, "seq2seq": settings},
    )


def _needed(model: str | Path, what: str, token_id: int | None) -> int:
    if token_id is None:
        raise ExportError(f"{model} needs {what}: set one and save it again.")
    return int(token_id)


def _start_id(model: PreTrainedModel) -> int | None:
    """What the decoder starts from, which some models say in generation_config.json alone."""
    said = (getattr(settings, "decoder_start_token_id", None) for settings in (model.config, model.generation_config))
    return next((found for found in said if found is not None), None)


def _longest_target(
    tokenizer: PreTrainedTokenizerBase, labels: tuple[str, ...], end_id: int, wanted: int | None
) -> int:
    """Room for every label, which must not be cut."""
    if not labels:
        return wanted or DEFAULT_MAX_TARGET
    if not tokenizer.is_fast:
        raise ExportError("Labels need a fast tokenizer, one with a tokenizer.json: convert the model's first.")
    found = encode_targets(tokenizer.backend_tokenizer, labels, end_id)
    alike = defaultdict(list)
    for label, ids in zip(labels, found, strict=True):
        alike[tuple(ids)].append(label)
    for same in alike.values():
        if len(same) > 1:
            raise ExportError(f"The tokenizer writes labels {same[0]!r} and {same[1]!r} alike: name one otherwise.")
    needed = max(map(len, found))
    if wanted is not None and wanted < needed:
        raise ExportError(f"The labels take up to {needed} tokens: give --max-target-length {needed} or leave it out.")
    return wanted or -(-needed // PAD_TO) * PAD_TO


def _example(settings: Seq2SeqSettings, longest: int, rows: int, length: int) -> Example:
    """Targets of half the source's length; every third source and target is shorter, and not in the same rows."""
    batch = random_tokens(settings.vocabulary, rows, min(length, longest))
    batch[ATTENTION_MASK][::3, length // 2 :] = 0
    shape = rows, max(min(length // 2, settings.max_target), 2)
    generator = torch.Generator().manual_seed(1)
    shifted, labels = torch.randint(0, settings.vocabulary, (2, *shape), generator=generator)
    labels[1::3, shape[1] // 2 :] = IGNORED
    return Example({**batch, DECODER_INPUT_IDS: shifted}, labels)

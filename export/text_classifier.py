"""A transformers text classifier as a training bundle, and what it shares with one of tokens."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from export.architectures import TEXT_CLASSIFIERS, Architecture, defaults_for
from export.recipe import Example, Recipe
from export.transformers_io import label_names, load_model, load_tokenizer, longest_input, save, saved_labels
from ravan.bundle import Task
from ravan.errors import ExportError
from ravan.runtime.names import ATTENTION_MASK, INPUT_IDS

DEFAULT_MAX_LENGTH = 128
SEQUENCE_AXES = {INPUT_IDS: {0: "batch", 1: "length"}, ATTENTION_MASK: {0: "batch", 1: "length"}}


def text_classifier(
    model: str | Path, labels: tuple[str, ...] | None = None, max_length: int = DEFAULT_MAX_LENGTH, seed: int = 0
) -> Recipe:
    """The recipe for a folder or hub id; without ``labels`` for those that the model was saved with.

    Args:
        model: folder or hub id.
        labels: label names in the order of the logits.
        max_length: longest sequence, tokens; at most what the model takes.
        seed: of modules that the checkpoint lacks, such as a new classifier.

    Raises:
        ExportError: transformers can't load it.
    """
    kind = AutoModelForSequenceClassification
    return classifier(Task.TEXT_CLASSIFICATION, kind, TEXT_CLASSIFIERS, _example, model, labels, max_length, seed)


def classifier(
    task: Task,
    kind: Any,
    defaults: Mapping[str, Architecture],
    example: Callable[[PreTrainedModel, int, int, int, int], Example],
    model: str | Path,
    labels: tuple[str, ...] | None,
    max_length: int,
    seed: int,
) -> Recipe:
    """The recipe of a classifier of texts or of their tokens.

    Args:
        task: which of the two.
        kind: transformers' class for it.
        defaults: what to adapt, by model type.
        example: a batch of (model, classes, longest, rows, length).
        model: as in ``text_classifier``, with the rest.
        labels: likewise.
        max_length: likewise.
        seed: likewise.
    """
    loaded = load_model(kind, model, seed, label_names(labels))
    tokenizer = load_tokenizer(model)
    if tokenizer.pad_token_id is None:
        raise ExportError(f"{model} needs a tokenizer with a pad token: set one and save the tokenizer again.")
    longest = min(max_length, longest_input(loaded))
    names = saved_labels(loaded)
    return Recipe(
        task=task,
        model=loaded,
        architecture=partial(defaults_for, defaults, loaded.config.model_type),
        axes=SEQUENCE_AXES,
        longest=longest,
        example=partial(example, loaded, len(names), longest),
        save=partial(save, loaded, tokenizer),
        settings={"labels": names, "max_length": longest, "pad_id": int(tokenizer.pad_token_id)},
    )


def random_tokens(vocabulary: int, rows: int, length: int) -> dict[str, torch.Tensor]:
    """Random token ids and a mask in which one sequence is shorter."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocabulary, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, length // 2 :] = 0
    return {INPUT_IDS: ids, ATTENTION_MASK: mask}


def _example(model: PreTrainedModel, classes: int, longest: int, rows: int, length: int) -> Example:
    batch = random_tokens(int(model.config.vocab_size), rows, min(length, longest))
    return Example(batch, torch.arange(rows) % classes)

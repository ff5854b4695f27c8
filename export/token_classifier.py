"""A transformers token classifier as a training bundle: a tag for every word, such as the names in a text."""

from pathlib import Path

import torch
from transformers import AutoModelForTokenClassification, PreTrainedModel

from export.architectures import TOKEN_CLASSIFIERS
from export.recipe import Example, Recipe
from export.text_classifier import DEFAULT_MAX_LENGTH, classifier, random_tokens
from ravan.bundle import Task
from ravan.runtime.names import ATTENTION_MASK, IGNORED


def token_classifier(
    model: str | Path, labels: tuple[str, ...] | None = None, max_length: int = DEFAULT_MAX_LENGTH, seed: int = 0
) -> Recipe:
    """The recipe for a folder or hub id; without ``labels`` for those that the model was saved with.

    Arguments and errors as of ``export.text_classifier.text_classifier``.
    """
    kind = AutoModelForTokenClassification
    return classifier(Task.TOKEN_CLASSIFICATION, kind, TOKEN_CLASSIFIERS, _example, model, labels, max_length, seed)


def _example(model: PreTrainedModel, classes: int, longest: int, rows: int, length: int) -> Example:
    """Labels but at every third place, and none where the mask is 0."""
    batch = random_tokens(int(model.config.vocab_size), rows, min(length, longest))
    mask = batch[ATTENTION_MASK]
    labels = torch.arange(mask.numel()).view_as(mask) % classes
    labels[mask == 0] = IGNORED
    labels[:, ::3] = IGNORED
    return Example(batch, labels)

"""A transformers vision transformer as a training bundle for image classification."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageClassification, PreTrainedModel

from export.architectures import IMAGE_CLASSIFIERS, defaults_for
from export.image_processor import normalization, read_processor, size_of, write_processor
from export.recipe import Example, Recipe
from export.transformers_io import label_names, load_model, save, saved_labels
from ravan.bundle import ImageSettings, Task
from ravan.errors import ExportError
from ravan.runtime.names import PIXEL_VALUES

ANY_SIZE = {"dinov2"}
"""Families whose position embeddings are interpolated to the size of the images."""
SPECIAL_TOKENS = {"cls_token", "class_embedding", "distillation_token"}


def image_classifier(model: str | Path, labels: tuple[str, ...] | None = None, seed: int = 0) -> Recipe:
    """The recipe for a folder or hub id; without ``labels`` for those that the model was saved with.

    Raises:
        ExportError: transformers can't load it, or its images have neither 1 nor 3 channels.
    """
    loaded = load_model(AutoModelForImageClassification, model, seed, label_names(labels))
    settings = _settings(model, loaded)
    names = saved_labels(loaded)
    return Recipe(
        task=Task.IMAGE_CLASSIFICATION,
        model=loaded,
        architecture=partial(defaults_for, IMAGE_CLASSIFIERS, loaded.config.model_type),
        axes={PIXEL_VALUES: {0: "batch"}},
        longest=0,
        example=partial(_example, settings, len(names)),
        save=partial(_save, loaded, settings),
        settings={"labels": names, "max_length": 0, "pad_id": 0, "image": settings},
    )


def _settings(name: str | Path, model: PreTrainedModel) -> ImageSettings:
    """Size and channels from the model, normalization from its image processor if it has one.

    The size is the processor's where the model fits its position embeddings to any size.
    """
    config = getattr(model.config, "vision_config", model.config)  # CLIP and SigLIP describe two towers
    processor = read_processor(name)
    try:
        height, width = _pair(config.image_size)
        down, across = _pair(config.patch_size)
        channels = int(config.num_channels)
    except AttributeError as error:
        raise ExportError(f"{name} is no vision transformer ({error}): give one with patches of fixed size.") from error
    if channels not in (1, 3):
        raise ExportError(f"{name} takes images of {channels} channels: give a model for grey (1) or RGB (3) images.")
    if config.model_type in ANY_SIZE:
        height, width = size_of(processor) or (height, width)
    mean, std = normalization(processor, channels)
    return ImageSettings(height, width, mean, std, (height // down) * (width // across) + _special_tokens(model))


def _special_tokens(model: PreTrainedModel) -> int:
    """Tokens beside the patches; DeiT, for one, has a distillation token beside the class token."""
    parameters = {name.rsplit(".", 1)[-1] for name, _ in model.named_parameters()}
    return len(parameters & SPECIAL_TOKENS)


def _save(model: PreTrainedModel, settings: ImageSettings, folder: Path) -> None:
    """The model, and the settings of its images as transformers' image processors read them."""
    save(model, None, folder)
    write_processor(settings, folder)


def _pair(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _example(settings: ImageSettings, classes: int, rows: int, length: int) -> Example:
    shape = (rows, settings.channels, settings.height, settings.width)
    pixels = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return Example({PIXEL_VALUES: pixels}, torch.arange(rows) % classes)

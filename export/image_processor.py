"""A model's image processor: what preprocessor_config.json says of size and normalization, read and written."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from transformers.image_processing_base import ImageProcessingMixin

from ravan.bundle import ImageSettings
from ravan.errors import ExportError

FILE = "preprocessor_config.json"
Size = tuple[int, int]
"""Height and width."""


def read_processor(model: str | Path) -> Mapping[str, Any]:
    """The settings of a folder or hub id; empty if it has none.

    Raises:
        ExportError: it has some that can't be read.
    """
    try:
        found, _ = ImageProcessingMixin.get_image_processor_dict(model)
    except (OSError, ValueError) as error:
        if (Path(model) / FILE).exists():
            raise ExportError(f"{FILE} of {model} can't be read: write it as JSON, or remove it.") from error
        return {}
    return dict(found)


def normalization(processor: Mapping[str, Any], channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, as transformers' image processors apply them.

    0.5 and 0.5, which maps pixels to -1..1, where the processor says nothing; 0 and 1 if it leaves them as they are.

    Raises:
        ExportError: a deviation is not positive, or something is no number.
    """
    if processor.get("do_normalize") is False:
        return (0.0,) * channels, (1.0,) * channels
    try:
        mean, std = (_per_channel(processor.get(name), channels) for name in ("image_mean", "image_std"))
    except (TypeError, ValueError) as error:
        raise ExportError(f"image_mean or image_std in {FILE} is no list of numbers ({error}): correct it.") from error
    if not min(std) > 0:
        raise ExportError(f"image_std in {FILE} holds {min(std)}: give a positive deviation for every channel.")
    return mean, std


def size_of(processor: Mapping[str, Any]) -> Size | None:
    """The size that images have behind the processor; None if it does not say, or keeps the shape of each.

    Raises:
        ExportError: the size is no number.
    """
    value = processor.get("crop_size" if processor.get("do_center_crop") else "size")
    try:
        if isinstance(value, Mapping):
            return (int(value["height"]), int(value["width"])) if {"height", "width"} <= set(value) else None
        return None if value is None else (int(value), int(value))
    except (TypeError, ValueError) as error:
        raise ExportError(f"The image size in {FILE} is no number ({error}): correct it.") from error


def write_processor(settings: ImageSettings, folder: Path) -> None:
    """The settings by which transformers prepares an image as devices do."""
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_convert_rgb": settings.channels == 3,
        "do_resize": True,
        "size": {"height": settings.height, "width": settings.width},
        "resample": int(Image.Resampling.BILINEAR),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": settings.mean,
        "image_std": settings.std,
    }
    (folder / FILE).write_text(json.dumps(processor, indent=2) + "\n", "utf-8")


def _per_channel(values: object, channels: int) -> tuple[float, ...]:
    given = tuple(map(float, values)) if isinstance(values, (list, tuple)) else (0.5,) * channels
    return given if len(given) == channels else given[:1] * channels

"""Images as normalized batches: with labels from a folder for each or an NPZ file, or without to be asked about."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ravan.bundle import Bundle, ImageSettings, Manifest
from ravan.errors import DataError, NoExamples
from ravan.runtime.names import LABELS, PIXEL_VALUES
from ravan.runtime.npz import read_npz
from ravan.runtime.rows import label_of
from ravan.runtime.session import Batch

Pixels = NDArray[np.uint8]
KINDS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"})
MODES = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})
"""Pillow's modes of at most 8 bits a channel; converting those of 16 or 32 bits would cut off all above 255."""
LARGEST_PIXELS = 50_000_000  # of one image; decoded, it is 150 MB


@dataclass(frozen=True)
class LabelledImages:
    """Images [height, width, channels], each with the index of its label; normalized when a batch is formed."""

    manifest: Manifest
    pixels: Sequence[Pixels]
    labels: Sequence[int]
    skipped: int = 0

    @classmethod
    def read(cls, bundle: Bundle, path: Path, *, skip_bad: bool = False) -> "LabelledImages":
        """Reads a folder with one subfolder per label name, or an NPZ file with ``images`` and ``labels``.

        ``images`` is uint8 [n, height, width] or [n, height, width, channels], ``labels`` names or indices [n].

        Raises:
            DataError: it can't be read, or an image or label is of no use and ``skip_bad`` is off; names it.
            NoExamples: no usable image is left.
        """
        assert bundle.manifest.image is not None
        entries = _folder_entries(path) if path.is_dir() else _npz_entries(path)
        index = {name: i for i, name in enumerate(bundle.manifest.labels)}
        pixels: list[Pixels] = []
        labels: list[int] = []
        skipped = 0
        for entry in entries:
            try:
                label = label_of({"label": entry.label}, index)
                pixels.append(_prepared(entry.load, bundle.manifest.image))
                labels.append(label)
            except ValueError as reason:
                if not skip_bad:
                    raise DataError(f"{entry.where}: {reason}; correct it or use --skip-bad.") from None
                skipped += 1
        if not pixels:
            raise NoExamples(
                f"{path} holds no usable image ({skipped} skipped): give a folder with a subfolder of images for each "
                "label, or an NPZ file."
            )
        return cls(bundle.manifest, pixels, labels, skipped)

    def __len__(self) -> int:
        return len(self.pixels)

    def tokens(self, index: int) -> int:
        """As ``Examples.tokens``: all images count alike."""
        assert self.manifest.image is not None
        return self.manifest.image.tokens

    def batch(self, indices: Sequence[int]) -> Batch:
        """As ``Examples.batch``; pixel values are float32 [batch, channels, height, width]."""
        settings = self.manifest.image
        assert settings is not None
        inputs = normalized([self.pixels[i] for i in indices], settings)
        return {**inputs, LABELS: np.array([self.labels[i] for i in indices], np.int64)}


def normalized(pixels: Sequence[Pixels], settings: ImageSettings) -> Mapping[str, NDArray[np.float32]]:
    """Pixel values as the model takes them, float32 [batch, channels, height, width]."""
    values = np.stack(pixels).astype(np.float32) / 255
    values = (values - np.array(settings.mean, np.float32)) / np.array(settings.std, np.float32)
    return {PIXEL_VALUES: np.ascontiguousarray(values.transpose(0, 3, 1, 2))}


def unlabelled(path: Path, settings: ImageSettings, *, skip_bad: bool = False) -> Iterator[tuple[str, Pixels]]:
    """Where each image is, and its pixels in the model's size: of one file, a folder at any depth, or an NPZ file.

    Raises:
        DataError: it can't be read, or an image is of no use and ``skip_bad`` is off; names it.
    """
    if path.suffix.lower() == ".npz":
        entries = _npz_entries(path, labelled=False)
    else:
        files = _images_below(path, "**/*") if path.is_dir() else [path]
        entries = (_Entry(str(file), None, partial(Image.open, file)) for file in files)
    for entry in entries:
        try:
            yield entry.where, _prepared(entry.load, settings)
        except ValueError as reason:
            if not skip_bad:
                raise DataError(f"{entry.where}: {reason}; correct it or use --skip-bad.") from None


def random_pixels(manifest: Manifest, rows: int, generator: np.random.Generator) -> Mapping[str, NDArray[np.float32]]:
    """Random pixel values."""
    settings = manifest.image
    assert settings is not None
    shape = (rows, settings.channels, settings.height, settings.width)
    return {PIXEL_VALUES: generator.standard_normal(shape, np.float32)}


@dataclass(frozen=True)
class _Entry:
    """One image not read yet: where it is, for messages, its label as found, and how to read it."""

    where: str
    label: object
    load: Callable[[], Image.Image]


def _folder_entries(folder: Path) -> Iterator[_Entry]:
    for path in _images_below(folder, "*/*"):
        yield _Entry(str(path), path.parent.name, partial(Image.open, path))


def _images_below(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.suffix.lower() in KINDS)


def _npz_entries(path: Path, *, labelled: bool = True) -> Iterator[_Entry]:
    written = "write it with numpy.savez(path, images=..., labels=...)"
    arrays = read_npz(path, "images and labels", written, "give an NPZ file or a folder of images")
    if not ({"images", "labels"} if labelled else {"images"}) <= set(arrays):
        raise DataError(f"{path} is no NPZ file of images and labels: {written}.")
    images = arrays["images"]
    labels: NDArray[Any] = arrays["labels"] if labelled else np.zeros(images.shape[:1])
    if images.dtype != np.uint8 or images.shape[3:] not in ((), (1,), (3,)) or not _fit(images, labels):
        raise DataError(
            f"{path} holds images {images.dtype} {list(images.shape)} and labels {list(labels.shape)}: "
            "give uint8 [n, height, width] or [n, height, width, 1 or 3], and labels [n]."
        )
    for i, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        yield _Entry(f"{path}, image {i}", label, partial(_from_array, image))


def _from_array(array: Pixels) -> Image.Image:
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 and array.ndim == 3 else array)


def _fit(images: NDArray[Any], labels: NDArray[Any]) -> bool:
    return images.ndim in (3, 4) and min(images.shape[1:]) > 0 and labels.shape == images.shape[:1]


def _prepared(load: Callable[[], Image.Image], settings: ImageSettings) -> Pixels:
    """In the model's size and channels and the right way up, [height, width, channels].

    Raises:
        ValueError: it can't be decoded or would not keep its values; says why.
    """
    try:
        with load() as image:
            _require_sensible(image)
            converted = ImageOps.exif_transpose(image).convert("L" if settings.channels == 1 else "RGB")
    except ValueError:
        raise
    except Exception as error:  # Pillow's readers let through whatever their parsing of damaged bytes raises
        raise ValueError(_reason(error)) from None
    if converted.size != (settings.width, settings.height):
        converted = converted.resize((settings.width, settings.height), Image.Resampling.BILINEAR)
    return np.asarray(converted, np.uint8).reshape(settings.height, settings.width, settings.channels)


def _require_sensible(image: Image.Image) -> None:
    """Raises ValueError for an image that is too large or whose values 8 bits do not hold, before it is decoded."""
    if image.width * image.height > LARGEST_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels are too many")
    if image.mode not in MODES:
        raise ValueError(f"more than 8 bits a channel ({image.mode})")


def _reason(error: Exception) -> str:
    match error:
        case Image.DecompressionBombError():
            return "too many pixels"
        case OSError() if not isinstance(error, UnidentifiedImageError):
            return error.strerror or str(error)
    return "no image, or a damaged one"

"""Small drawings that can be told apart, as folders and NPZ files, and a tiny vision transformer to learn them."""

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification

SHAPES = ("bar", "post", "block")
HEIGHT, WIDTH = 16, 12
MEAN, STD = 0.3, 0.2
Pixels = NDArray[np.uint8]


def drawings(count: int, seed: int, channels: int = 1) -> tuple[Pixels, list[str]]:
    """Noisy images [count, height, width, channels] of lying bars, upright posts and blocks, and their names."""
    generator = np.random.default_rng(seed)
    values = generator.integers(0, 80, (count, HEIGHT, WIDTH, channels))
    labels = [SHAPES[i % len(SHAPES)] for i in range(count)]
    extents = {"bar": (2, 10), "post": (10, 2), "block": (6, 6)}
    for image, label in zip(values, labels, strict=True):
        high, wide = extents[label]
        top, left = generator.integers(0, HEIGHT - high + 1), generator.integers(0, WIDTH - wide + 1)
        image[top : top + high, left : left + wide] += 170
    return values.astype(np.uint8), labels


def write_npz(path: Path, pixels: Pixels, labels: object) -> Path:
    """Images and labels as one file."""
    np.savez(path, images=pixels, labels=np.array(labels))
    return path


def write_folder(folder: Path, pixels: Pixels, labels: list[str]) -> Path:
    """A folder for each label, a PNG for each image, numbered in their order."""
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        (folder / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(folder / label / f"{number:04}.png")
    return folder


def write_vit(folder: Path, channels: int, labels: int = len(SHAPES)) -> Path:
    """A random two-layer ViT of width 32, as transformers saves it, with the settings of its images."""
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=(HEIGHT, WIDTH),
        patch_size=4,
        num_channels=channels,
        initializer_range=0.2,  # wide enough that so small a model tells images apart
    )
    config.num_labels = labels
    torch.manual_seed(0)
    ViTForImageClassification(config).save_pretrained(folder)
    processor = {"image_processor_type": "ViTImageProcessor", "image_mean": [MEAN] * channels, "image_std": [STD]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder

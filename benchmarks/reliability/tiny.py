"""A real training bundle so small that a local run takes a second: a module of one hidden layer, and data it learns."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from export.bundle import ExportOptions, export_bundle
from export.custom import custom_model
from ravan.bundle import Bundle
from ravan.torch import CustomModel

WIDTH, CLASSES, FEATURES = 32, 3, 8


class Tiny(nn.Module):
    """x [batch, FEATURES] to logits [batch, CLASSES]."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.hidden = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.classifier = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of x."""
        logits: Tensor = self.classifier(torch.tanh(self.hidden(torch.tanh(self.into(x)))))
        return logits


def tiny() -> CustomModel:
    """What is exported."""
    torch.manual_seed(0)
    return CustomModel(
        module=Tiny(),
        batch={"x": torch.randn(4, FEATURES)},
        loss="cross-entropy",
        targets=("into", "hidden"),
        saved=("classifier",),
        label_names=tuple(f"class-{number}" for number in range(CLASSES)),
    )


def tiny_bundle(out: Path) -> Bundle:
    """Exports it."""
    options = ExportOptions(heads=3, rank=4)
    return export_bundle(lambda: custom_model(f"{__name__}:tiny"), options, out, "tiny")


def tiny_data(path: Path, examples: int = 60) -> Path:
    """Writes examples whose class is that of their largest feature among the first few."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((examples, FEATURES)).astype(np.float32)
    np.savez(path, x=x, labels=x[:, :CLASSES].argmax(axis=1).astype(np.int64))
    return path

"""Small modules that transformers does not know, the factories that describe them, and data they can learn."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ravan.runtime.names import IGNORED
from ravan.torch import CustomModel, Loss
from tests.walks import CHANNELS, TAGS, Walks

STEPS, WIDTH, CLASSES = 24, 16, 3
NAMES = ("still", "slow", "fast")
LONGEST = 32


class Block(nn.Module):
    """A transformer layer with separate projections."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        mixed = nn.functional.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x))
        normed: Tensor = self.norm(x + mixed)
        return normed


class Windows(nn.Module):
    """Sensor windows [batch, STEPS, CHANNELS] to classes or values."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.patches = nn.Linear(4 * CHANNELS, WIDTH)
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(WIDTH, outputs)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.blocks(self.patches(x.reshape(x.shape[0], STEPS // 4, 4 * CHANNELS)))
        out: Tensor = self.head(torch.relu(tokens).mean(1))
        return out


class Tagger(nn.Module):
    """Sequences [batch, time, CHANNELS] of any length to a class for every step, by PyTorch's own encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(CHANNELS, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 2 * WIDTH, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, TAGS)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(self.into(x), src_key_padding_mask=~present))
        return out


def windows() -> CustomModel:
    """Everything by default but the names."""
    torch.manual_seed(0)
    return CustomModel(module=Windows(CLASSES), batch={"x": torch.randn(4, STEPS, CHANNELS)}, label_names=NAMES)


def regression() -> CustomModel:
    """Two values a window."""
    torch.manual_seed(0)
    return CustomModel(
        module=Windows(2),
        batch={"x": torch.randn(4, STEPS, CHANNELS)},
        loss="mean-squared-error",
        targets=("query", "value"),
        saved=("head",),
    )


def tagger() -> CustomModel:
    """Two inputs whose time differs."""
    torch.manual_seed(0)
    return CustomModel(
        module=Tagger(),
        batch={"x": torch.randn(4, 9, CHANNELS), "present": torch.ones(4, 9, dtype=torch.bool)},
        loss=Loss.TOKEN_CROSS_ENTROPY,
        dynamic={"x": {1: "time"}, "present": {1: "time"}},
        longest={"time": LONGEST},
    )


def motion(count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Noisy windows [count, STEPS, CHANNELS] whose channels swing not at all, slowly or fast, and their classes."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    phase = generator.uniform(0, 2 * np.pi, (count, 1, CHANNELS))
    swing = np.sin(np.array([0.0, 0.4, 1.6])[labels][:, None, None] * np.arange(STEPS)[:, None] + phase)
    noise = generator.normal(0, 0.2, (count, STEPS, CHANNELS))
    return (np.where(labels[:, None, None] > 0, swing, 0) + noise).astype(np.float32), labels


def write_windows(path: Path, count: int = 48, seed: int = 1) -> Path:
    """Motion with its labels."""
    x, labels = motion(count, seed)
    np.savez(path, x=x, labels=labels)
    return path


def write_values(path: Path, count: int = 48, seed: int = 1) -> Path:
    """Motion with what is to be told of it: how strong and how fast it is."""
    x, labels = motion(count, seed)
    np.savez(path, x=x, labels=np.stack([labels > 0, 2.0 * labels], axis=1))
    return path


def write_tags(path: Path, count: int = 48) -> Path:
    """Walks of one length in the file, of different lengths by their mask."""
    walks = Walks.of_seed(1)
    examples = [walks[i] for i in range(count)]
    x, present = np.zeros((count, LONGEST, CHANNELS)), np.zeros((count, LONGEST), bool)
    labels = np.full((count, LONGEST), IGNORED)
    for row, example in enumerate(examples):
        steps = len(example["x"])
        x[row, :steps], present[row, :steps], labels[row, :steps] = example["x"], True, example["labels"]
    np.savez(path, x=x, present=present, labels=labels)
    return path

"""A small transformer over raw sensor windows, and what Ravan needs to know of it."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.har.data import ACTIVITIES, CHANNELS, WINDOW
from ravan.torch import CustomModel

PATCH = 8  # samples
WIDTH, LAYERS, HEADS = 64, 3, 4


class Layer(nn.Module):
    """Self-attention and a feed-forward part, each behind a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.into, self.back = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.before_attention, self.before_feed_forward = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """X [batch, patches, WIDTH], the same shape out."""
        normed = self.before_attention(x)
        heads = [
            part(normed).view(*x.shape[:2], HEADS, -1).transpose(1, 2) for part in (self.query, self.key, self.value)
        ]
        mixed = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        x = x + self.out(mixed)
        fed: Tensor = self.back(F.gelu(self.into(self.before_feed_forward(x))))
        return x + fed


class ActivityTransformer(nn.Module):
    """Windows x [batch, WINDOW, channels] to logits [batch, activities]."""

    positions: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Linear(PATCH * len(CHANNELS), WIDTH)
        self.register_buffer("positions", sinusoids(WINDOW // PATCH, WIDTH))
        self.layers = nn.Sequential(*(Layer() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.classifier = nn.Linear(WIDTH, len(ACTIVITIES))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of x."""
        patches = x.reshape(x.shape[0], WINDOW // PATCH, PATCH * len(CHANNELS))
        tokens = self.patches(patches) + self.positions
        logits: Tensor = self.classifier(self.norm(self.layers(tokens)).mean(1))
        return logits


def sinusoids(length: int, width: int) -> Tensor:
    """Positions as waves of different lengths, [length, width] (arXiv 1706.03762, section 3.5)."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(1000.0) / width))
    angles = torch.arange(length)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def har() -> CustomModel:
    """What ``ravan-export custom examples.har.model:har`` exports: heads in the attention and the feed-forward part.

    The model starts from chance, so what meets the raw signal and what gives the answer are trained whole.
    """
    torch.manual_seed(0)
    return CustomModel(
        module=ActivityTransformer(),
        batch={"x": torch.randn(4, WINDOW, len(CHANNELS))},
        loss="cross-entropy",
        targets=("query", "key", "value", "out", "into", "back"),
        saved=("patches", "classifier"),
        label_names=ACTIVITIES,
    )

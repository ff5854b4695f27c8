"""Modules whose adapters have the sizes of the benchmark; nobody trains them."""

import torch
from torch import Tensor, nn

from ravan.torch import CustomModel

LAYERS, HEADS = 12, 4
RANKS = {"small": 79, "large": 155}
"""12 layers x 4 heads x rank^2 values: 1.2 and 4.6 MB in float32."""


class Stack(nn.Module):
    """Linear layers, one after the other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(LAYERS))
        self.classifier = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [rows, 2] of x [rows, width]."""
        for layer in self.layers:
            x = torch.tanh(layer(x))
        logits: Tensor = self.classifier(x)
        return logits


def small() -> CustomModel:
    """About 300,000 values."""
    return _model(RANKS["small"] + 1)


def large() -> CustomModel:
    """About 1,150,000 values."""
    return _model(RANKS["large"] + 5)


def _model(width: int) -> CustomModel:
    torch.manual_seed(0)
    return CustomModel(module=Stack(width), batch={"x": torch.randn(2, width)})

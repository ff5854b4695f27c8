"""Which adapted layers form their weight change first, and which run x through its factors."""

from torch import nn

from ravan.bundle import Precision
from ravan.torch import RavanLinear

INT8_SPEED = 3.5  # of a product by a frozen matrix in int8, against float32


def split_where_cheaper(model: nn.Module, precision: Precision) -> int:
    """Sets ``split`` on every RavanLinear whose training step is then shorter.

    Returns:
        How many layers are split.
    """
    layers = [module for module in model.modules() if isinstance(module, RavanLinear)]
    for layer in layers:
        layer.split = split_is_cheaper(layer.base.in_features, layer.base.out_features, layer.B.shape[1], precision)
    return sum(layer.split for layer in layers)


def split_is_cheaper(d_in: int, d_out: int, inner: int, precision: Precision) -> bool:
    """By the multiplications of a token's forward and backward pass; ``inner`` is heads * rank.

    Merged, a token meets W + B D A in three products, and they stay in float: y, dx and the gradient of the sum. Split,
    W, A and B each take two products, y's and dx's, which int8 speeds up, and D takes three in float.
    """
    merged = 3 * d_in * d_out
    frozen = 2 * (d_in * d_out + inner * (d_in + d_out))
    return frozen / (INT8_SPEED if precision is Precision.INT8 else 1) + 3 * inner**2 < merged

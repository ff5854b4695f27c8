"""A linear layer with Ravan heads."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ravan.bases import Bases


class RavanLinear(nn.Module):
    """y = x (W + sum_i s_i B_i H_i A_i)^T + b, with W, b, A, B frozen and H, s trained (paper section 4).

    The sum is B D A with the heads' B_i side by side, their A_i on top of each other, and the s_i H_i on the diagonal
    of D. Merged, the change of W is formed first and x meets one matrix: a training batch has far more tokens than W
    has rows. Split, x runs through W and through A, D and B: more products, but all except D's meet frozen matrices.

    Attributes:
        base: the adapted layer, W [d_out, d_in].
        A: the heads' A_i on top of each other, [heads * rank, d_in].
        B: the heads' B_i side by side, [d_out, heads * rank].
        H: [heads, rank, rank], 0 at first.
        s: [heads], 1 at first.
        split: whether x runs through the factors; False at first.
    """

    A: Tensor
    B: Tensor

    def __init__(self, base: nn.Linear, bases: Bases) -> None:
        super().__init__()
        heads, rank, _ = bases.A.shape
        self.base = base.requires_grad_(requires_grad=False)
        self.split = False
        device, dtype = base.weight.device, base.weight.dtype
        side_by_side = bases.B.transpose(1, 0, 2).reshape(base.out_features, heads * rank)
        self.register_buffer("A", torch.tensor(bases.A.reshape(heads * rank, -1), device=device, dtype=dtype))
        self.register_buffer("B", torch.tensor(side_by_side, device=device, dtype=dtype))
        self.H = nn.Parameter(torch.zeros(heads, rank, rank, device=device, dtype=dtype))
        self.s = nn.Parameter(torch.ones(heads, device=device, dtype=dtype))

    @property
    def weight(self) -> Tensor:
        """W with its change, [d_out, d_in], for modules that read their layers' weights (nn.MultiheadAttention)."""
        return self.base.weight + self.weight_change()

    @property
    def bias(self) -> Tensor | None:
        """B, [d_out]."""
        return self.base.bias

    def weight_change(self) -> Tensor:
        """sum_i s_i B_i H_i A_i, [d_out, d_in]."""
        inner = (self.s[:, None, None] * self.H) @ self.A.view(*self.H.shape[:2], -1)  # [heads, rank, d_in]
        return self.B @ inner.flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        """X [..., d_in] to y [..., d_out]."""
        if not self.split:
            return F.linear(x, self.weight, self.bias)
        inner = F.linear(F.linear(x, self.A), self._diagonal())  # [..., heads * rank]
        change: Tensor = F.linear(inner, self.B)
        return F.linear(x, self.base.weight, self.bias) + change

    def _diagonal(self) -> Tensor:
        """D, [heads * rank, heads * rank]: one dense product costs less than heads small ones with their copies."""
        heads, rank, _ = self.H.shape
        places = torch.eye(heads, dtype=self.H.dtype, device=self.H.device)[:, None, :, None]
        blocks = (self.s[:, None, None] * self.H)[:, :, None, :] * places  # [heads, rank, heads, rank]
        return blocks.reshape(heads * rank, heads * rank)

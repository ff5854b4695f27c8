"""A model with every product as a plain linear layer, so that query and value can be adapted alone.

GPT-2 holds its weights the other way round, [d_in, d_out] (transformers' Conv1D), and has one matrix for query, key and
value together; ModernBERT has the latter too. While a model is adapted, such layers are taken apart; it is saved as
it was.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

FUSED = {"gpt2": "c_attn", "modernbert": "Wqkv"}
"""By model type, the layer whose outputs are the ``PARTS``, in their order."""
PARTS = ("query", "key", "value")
TURNED = {"gpt2": ("c_attn", "c_fc", "c_proj")}
"""By model type, the layers that are a Conv1D."""


class Turned(nn.Linear):
    """A Conv1D as a linear layer, W [d_out, d_in]."""


class Apart(nn.Module):
    """One layer for query, key and value as three whose outputs stand side by side."""

    def __init__(self, whole: nn.Linear) -> None:
        super().__init__()
        biases = (None,) * 3 if whole.bias is None else whole.bias.chunk(3)
        self.query, self.key, self.value = map(_linear, (type(whole),) * 3, whole.weight.chunk(3), biases)

    def whole(self) -> nn.Linear:
        """The one layer."""
        parts = (self.query, self.key, self.value)
        weights: list[Tensor] = [part.weight for part in parts]
        biases: list[Tensor] = [part.bias for part in parts if part.bias is not None]
        return _linear(type(self.query), torch.cat(weights), torch.cat(biases) if biases else None)

    def forward(self, x: Tensor) -> Tensor:
        """X [..., d_in] to [..., 3 d]."""
        return torch.cat([self.query(x), self.key(x), self.value(x)], dim=-1)


def take_apart(model: PreTrainedModel) -> None:
    """Puts plain linear layers in place of all others, in place; the model computes what it did."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, Conv1D):
            model.set_submodule(name, _linear(Turned, layer.weight.T, layer.bias))
    fused = FUSED.get(model.config.model_type)
    for name, layer in list(model.named_modules()):
        if fused and name.rsplit(".", 1)[-1] == fused and isinstance(layer, nn.Linear):
            model.set_submodule(name, Apart(layer))


@contextmanager
def put_together(model: PreTrainedModel) -> Iterator[None]:
    """The model as transformers knows it, for saving; taken apart again at the end."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, Apart):
            model.set_submodule(name, layer.whole())
    for name, layer in list(model.named_modules()):
        if isinstance(layer, Turned):
            model.set_submodule(name, _conv1d(layer))
    try:
        yield
    finally:
        take_apart(model)


@torch.no_grad()
def _linear(kind: type[nn.Linear], weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = kind(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.contiguous())
    if bias is not None:
        layer.bias = nn.Parameter(bias.contiguous())
    return layer


@torch.no_grad()
def _conv1d(layer: Turned) -> Conv1D:
    made = Conv1D(0, 0)
    made.nf, made.nx = layer.out_features, layer.in_features
    made.weight, made.bias = nn.Parameter(layer.weight.T.contiguous()), nn.Parameter(layer.bias)
    return made

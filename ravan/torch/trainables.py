"""The flat vector of trainables and a torch model's parameters, each written into the other."""

import numpy as np
import torch
from torch import nn

from ravan.layout import Vector, tensors
from ravan.spec import AdapterSpec


def named_trainables(model: nn.Module, spec: AdapterSpec) -> dict[str, nn.Parameter]:
    """The trained parameters by name in the order of the flat vector: every H, every s, the saved tensors."""
    names = [f"{layer.name}.H" for layer in spec.layers]
    names += [f"{layer.name}.s" for layer in spec.layers]
    names += [tensor.name for tensor in spec.saved]
    return {name: model.get_parameter(name) for name in names}


def read_trainables(model: nn.Module, spec: AdapterSpec) -> Vector:
    """The model's trainables as one flat vector."""
    parts = [p.detach().cpu().to(torch.float32).numpy().ravel() for p in named_trainables(model, spec).values()]
    return np.concatenate(parts)


@torch.no_grad()
def write_trainables(model: nn.Module, spec: AdapterSpec, flat: Vector) -> None:
    """Sets the model's trainables from a flat vector."""
    values = tensors(spec, flat)
    for name, parameter in named_trainables(model, spec).items():
        parameter.copy_(torch.from_numpy(values[name].copy()))

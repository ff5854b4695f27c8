"""An adapted layer takes the form whose training step is shorter; both forms give the same numbers."""

import pytest
import torch
from torch import nn

from export.adapted import split_is_cheaper, split_where_cheaper
from ravan.bases import draw_bases
from ravan.bundle import Precision
from ravan.spec import AdapterSpec, LayerSpec
from ravan.torch import RavanLinear

FP32, INT8 = Precision.FP32, Precision.INT8


@pytest.mark.parametrize(
    ("width", "inner", "precision", "split"),
    [
        (384, 156, FP32, False),
        (384, 156, INT8, True),
        (384, 312, INT8, False),  # D alone, in float, would cost two thirds of the merged layer
        (768, 32, FP32, True),
        (768, 312, INT8, True),
    ],
)
def test_the_form_follows_from_sizes_and_precision(
    width: int, inner: int, precision: Precision, *, split: bool
) -> None:
    assert split_is_cheaper(width, width, inner, precision) is split


def test_both_forms_give_the_same_outputs_and_gradients() -> None:
    torch.manual_seed(0)
    spec = AdapterSpec(layers=(LayerSpec("l", 64, 48),), heads=3, rank=2, seed=0)
    model = nn.Sequential(nn.Linear(64, 48))
    model[0] = layer = RavanLinear(model[0], draw_bases(spec, spec.layers[0]))  # type: ignore[arg-type]
    nn.init.normal_(layer.H)
    nn.init.normal_(layer.s)
    x, c = torch.randn(2, 7, 64), torch.randn(2, 7, 48)

    def result() -> tuple[torch.Tensor, ...]:
        y = model(x)
        return (y, *torch.autograd.grad((y * c).sum(), [layer.H, layer.s]))

    merged = result()
    assert split_where_cheaper(model, INT8) == 1
    assert layer.split
    for seen, expected in zip(result(), merged, strict=True):
        torch.testing.assert_close(seen, expected, atol=1e-4, rtol=1e-4)

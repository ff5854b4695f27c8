"""Graphs take every size of an axis up to the longest, however short that is."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from export.forward import export_plain
from ravan.inputs import LEAST


class Embedded(nn.Module):
    """A logit from each token."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.table(x).tanh()
        return logits


@pytest.mark.parametrize("longest", [LEAST, 16])
def test_an_axis_of_the_shortest_or_of_any_other_length_is_exported(longest: int, tmp_path: Path) -> None:
    model, axes, path = Embedded(), {"x": {0: "batch", 1: "length"}}, tmp_path / "model.onnx"
    export_plain(model, {"x": torch.zeros(3, longest, dtype=torch.int64)}, axes, {"length": longest}, path)
    session = ort.InferenceSession(path)
    for rows, length in ((1, LEAST), (5, longest)):
        x = np.arange(rows * length).reshape(rows, length) % 8
        (seen,) = session.run(None, {"x": x})
        np.testing.assert_allclose(seen, model(torch.from_numpy(x)).detach().numpy(), rtol=1e-5)

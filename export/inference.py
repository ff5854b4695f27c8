"""A merged model's inference graph with int8 weights, in plain ONNX operators, beside the float one."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from export.calibrate import calibrate
from export.quantize import quantize_embeddings, quantize_frozen_products
from ravan.runtime.names import LOGITS
from ravan.runtime.session import RuntimeOptions, open_session


@dataclass(frozen=True)
class Agreement:
    """An int8 graph beside the float one on one batch, which it was not calibrated on.

    Attributes:
        difference: largest of any logit, absolute.
        cosine: between all logits.
        same: share of the predictions with the same largest logit, not a number where a model makes no choice.
        predictions: how many: rows, or tokens where labels belong to these.
    """

    difference: float
    cosine: float
    same: float
    predictions: int

    def __str__(self) -> str:
        said = f"logits within {self.difference:.2g} of those, cosine {self.cosine:.4f}"
        if math.isnan(self.same):
            return said
        return f"{said}, {self.same:.1%} of {self.predictions} predictions on random input the same"


def write_int8(
    plain: Path, feed: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], out: Path, *, choices: bool = True
) -> Agreement:
    """Quantizes the inference graph at ``plain`` into ``out``, its weights beside it in ``out``.data.

    Args:
        plain: a float graph from a batch to logits.
        feed: a batch, which how finely each product's input is quantized is measured on.
        other: a batch to compare the two graphs on.
        out: where to.
        choices: whether the largest logit is a prediction, as it is not in regression.
    """
    model = ir.load(plain)  # its weights stay in their file
    passes.ShapeInferencePass()(model)
    schemes = calibrate(model, feed, out.parent)
    quantize_embeddings(model.graph)
    quantize_frozen_products(model.graph, forward=schemes)
    model.graph.outputs[0].name = LOGITS  # the last product may have been replaced
    for finish in (passes.CommonSubexpressionEliminationPass(), passes.RemoveUnusedNodesPass()):
        finish(model)
    model.graph.sort()
    ir.save(model, out, external_data=f"{out.name}.data")
    (exact,), (seen,) = (open_session(path, RuntimeOptions(mapped=True)).run([LOGITS], other) for path in (plain, out))
    cosine = float(exact.ravel() @ seen.ravel() / (np.linalg.norm(exact) * np.linalg.norm(seen)))
    same = exact.argmax(-1) == seen.argmax(-1)
    share = float(same.mean()) if choices else math.nan
    return Agreement(float(np.abs(exact - seen).max()), cosine, share, same.size)

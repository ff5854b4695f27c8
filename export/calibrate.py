"""How finely the input of each frozen product must be quantized, measured on an example batch.

One scale for all of an input is the fastest. A few tokens that are far larger than the rest, as every language model
has them (arXiv 2402.17762), call for one scale per row; a few channels that are far larger, for a second quantization
of what the first leaves over. The first of the three with a small enough error is taken.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from export.quantize import Fineness, frozen_products, frozen_weight, weight_name
from export.weights import save_with_shared_weights
from ravan.bundle import TRAIN
from ravan.runtime.session import open_session

LARGEST_ERROR = 0.025
"""Of a product, relative, root mean square over the rows. int8 weights alone cause about 0.01."""


def calibrate(forward: ir.Model, feed: Mapping[str, np.ndarray]) -> dict[str, Fineness]:
    """The fineness for each frozen product of a forward graph, by the name of its weight.

    Products of one input get the same, so that it is quantized once. ``feed`` holds every input of the graph.
    """
    inputs = _inputs_of_products(forward, feed)
    needed: dict[str, Fineness] = {}
    for node in frozen_products(forward.graph):
        name, weight = _name(node.inputs[0]), frozen_weight(node.inputs[1])
        assert weight is not None
        found = fineness(inputs[name].reshape(-1, len(weight)), weight)
        needed[name] = max(needed.get(name, Fineness.TENSOR), found)
    return {weight_name(node.inputs[1]): needed[_name(node.inputs[0])] for node in frozen_products(forward.graph)}


def fineness(x: np.ndarray, weight: np.ndarray) -> Fineness:
    """The least that keeps x W, x [rows, d_in] and W [d_in, d_out], within ``LARGEST_ERROR``."""
    sizes = np.linalg.norm(x @ weight, axis=1)
    counted = sizes > 1e-6 * sizes.max(initial=0)
    for choice in (Fineness.TENSOR, Fineness.ROWS):
        errors = np.linalg.norm((_quantized(x, choice) - x) @ weight, axis=1)[counted] / sizes[counted]
        if float(np.sqrt(np.mean(errors**2)) if len(errors) else 0) <= LARGEST_ERROR:
            return choice
    return Fineness.TWICE


def _quantized(x: np.ndarray, choice: Fineness) -> np.ndarray:
    """X after DynamicQuantizeLinear and back."""
    rows = np.maximum(np.abs(x).max(axis=1, keepdims=True), 1e-20) if choice is Fineness.ROWS else np.float32(1)
    y = x / rows
    low, high = min(float(y.min()), 0.0), max(float(y.max()), 0.0)
    scale = max((high - low) / 255, 1e-30)
    zero = np.rint(-low / scale)
    return np.asarray((np.clip(np.rint(y / scale) + zero, 0, 255) - zero) * scale * rows)


def _inputs_of_products(forward: ir.Model, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    model = forward.clone()
    products: Sequence[ir.Node] = frozen_products(model.graph)
    values = {_name(node.inputs[0]): node.inputs[0] for node in products}
    model.graph.outputs[:] = [value for value in values.values() if value is not None]
    with tempfile.TemporaryDirectory() as folder:  # a file, for a model of over 2 GB fits no message
        save_with_shared_weights({TRAIN: model}, Path(folder))
        return dict(zip(values, open_session(Path(folder) / TRAIN).run(list(values), feed), strict=True))


def _name(value: ir.Value | None) -> str:
    assert value is not None
    return value.name or ""

"""How the input of each frozen product is quantized, measured on an example batch.

One scale for all of an input is the fastest. A few channels that are far larger than the rest, as layer norms make
them, are divided by factors that the weight takes over (arXiv 2211.10438); a few tokens that are far larger, as every
language model has them (arXiv 2402.17762), call for one scale per row; what is left, for a second quantization of what
the first leaves over. The first of these with a small enough error is taken.
"""

import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from export.quantize import Fineness, Scheme, frozen_products, frozen_weight, quantized_weight, weight_name
from export.weights import save_with_shared_weights
from ravan.bundle import TRAIN
from ravan.runtime.session import RuntimeOptions, open_session

LARGEST_ERROR = 0.025
"""What the input's quantization may add to a product, relative, root mean square over the rows. int8 weights alone
cause about 0.01."""
BALANCES = (0.5, 0.65, 0.8, 1.0)
"""How much of a channel's size its row of W takes over; 1 for all of it."""
SAMPLED = 512
"""Columns of a weight that errors are measured on; a vocabulary's have tens of thousands, all much alike."""
TINY = 1e-8


def calibrate(forward: ir.Model, feed: Mapping[str, np.ndarray], scratch: Path) -> dict[str, Scheme]:
    """The scheme for each frozen product of a forward graph, by the name of its weight.

    Products of one input get the same, so that it is quantized once.

    Args:
        forward: a float graph.
        feed: every input of the graph.
        scratch: a folder with room for the weights once more, for a while.
    """
    inputs = _inputs_of_products(forward, feed, scratch)
    weights: defaultdict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for node in frozen_products(forward.graph):
        weight = frozen_weight(node.inputs[1])
        assert weight is not None
        weights[_name(node.inputs[0])][weight_name(node.inputs[1])] = weight
    found: dict[str, Scheme] = {}
    for name, shared in weights.items():
        matrices = list(shared.values())
        scheme = choose(inputs[name].reshape(-1, len(matrices[0])), matrices)
        found |= dict.fromkeys(shared, scheme)
    return found


def choose(x: np.ndarray, weights: Sequence[np.ndarray]) -> Scheme:
    """The cheapest that keeps every x W, x [rows, d_in], W [d_in, d_out], near what int8 weights alone make of it."""
    weights = [weight[:, :: -(-weight.shape[1] // SAMPLED)] for weight in weights]
    allowed = float(np.hypot(_error(x, weights, None), LARGEST_ERROR))
    for fineness in (Fineness.TENSOR, Fineness.ROWS):
        if _error(x, weights, Scheme(fineness)) <= allowed:
            return Scheme(fineness)
        errors = {balance: _error(x, weights, Scheme(fineness, _channels(x, weights, balance))) for balance in BALANCES}
        best = min(errors, key=errors.__getitem__)
        if errors[best] <= allowed:
            return Scheme(fineness, _channels(x, weights, best))
    return Scheme(Fineness.TWICE)


def _channels(x: np.ndarray, weights: Sequence[np.ndarray], balance: float) -> np.ndarray:
    """Factors [d_in] for channels, by how much of their size is taken over; 1 in the geometric mean."""
    size = np.maximum(np.abs(x).max(axis=0), TINY)
    of_rows = np.maximum(np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0), TINY)
    factors = size**balance / of_rows ** (1 - balance)
    return np.asarray(factors / np.exp(np.log(factors).mean()), np.float32)


def _error(x: np.ndarray, weights: Sequence[np.ndarray], scheme: Scheme | None) -> float:
    """Of the worst product, relative, root mean square over its rows; without a scheme, the weights' error alone."""
    factors = np.ones(x.shape[1], np.float32) if scheme is None or scheme.channels is None else scheme.channels
    seen = x if scheme is None else _quantized(x / factors, scheme.fineness)
    return max(_difference(seen, x, weight, factors) for weight in weights)


def _difference(seen: np.ndarray, x: np.ndarray, weight: np.ndarray, factors: np.ndarray) -> float:
    """Between ``seen`` by the stored weight and x W."""
    exact = x @ weight
    int8, scale = quantized_weight(weight * factors[:, None])
    sizes = np.linalg.norm(exact, axis=1)
    counted = sizes > 1e-6 * sizes.max(initial=0)
    errors = np.linalg.norm(seen @ (int8 * scale) - exact, axis=1)[counted] / sizes[counted]
    return float(np.sqrt(np.mean(errors**2))) if len(errors) else 0.0


def _quantized(x: np.ndarray, fineness: Fineness) -> np.ndarray:
    """X after DynamicQuantizeLinear and back."""
    rows = np.maximum(np.ptp(x, axis=1, keepdims=True), 1e-20) if fineness is Fineness.ROWS else np.float32(1)
    y = x / rows
    low, high = min(float(y.min()), 0.0), max(float(y.max()), 0.0)
    scale = max((high - low) / 255, 1e-30)
    zero = round(-low / scale)  # a number of Python: one of numpy would make all of this float64
    return np.asarray((np.clip(np.rint(y / scale) + zero, 0, 255) - zero) * scale * rows)


def _inputs_of_products(forward: ir.Model, feed: Mapping[str, np.ndarray], scratch: Path) -> dict[str, np.ndarray]:
    model = forward.clone()
    products: Sequence[ir.Node] = frozen_products(model.graph)
    values = {_name(node.inputs[0]): node.inputs[0] for node in products}
    if not values:  # as in small models, whose products are not worth int8
        return {}
    model.graph.outputs[:] = [value for value in values.values() if value is not None]
    with tempfile.TemporaryDirectory(dir=scratch) as folder:  # a file, for a model of over 2 GB fits no message
        save_with_shared_weights({TRAIN: model}, Path(folder))
        session = open_session(Path(folder) / TRAIN, RuntimeOptions(mapped=True))
        return dict(zip(values, session.run(list(values), feed), strict=True))


def _name(value: ir.Value | None) -> str:
    assert value is not None
    return value.name or ""

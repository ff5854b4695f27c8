"""The fineness of a quantized input follows from what it is like, and keeps its product."""

import numpy as np
import onnx_ir as ir
import pytest

from export.calibrate import LARGEST_ERROR, calibrate, fineness
from export.forward import IR_VERSION, OPSET
from export.onnx_builder import Builder
from export.quantize import Fineness, quantize_frozen_products
from tests.export.test_quantize import session

ROWS, WIDTH, OUT = 40, 256, 192


def even() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((ROWS, WIDTH)).astype(np.float32)


def large_rows() -> np.ndarray:
    """A few tokens a hundred times larger than the rest."""
    x = even()
    x[:2] *= 100
    return x


def large_channel() -> np.ndarray:
    """One channel a hundred times larger than the rest, in every row."""
    x = even()
    x[:, 7] *= 100
    return x


@pytest.fixture
def weight() -> np.ndarray:
    """The channel that may be large has no weight, so that the others matter."""
    drawn = np.random.default_rng(0).standard_normal((WIDTH, OUT)).astype(np.float32)
    drawn[7] = 0
    return drawn


CASES = [(even, Fineness.TENSOR), (large_rows, Fineness.ROWS), (large_channel, Fineness.TWICE)]


def graph(weight: np.ndarray) -> ir.Model:
    x = ir.val("x", ir.DataType.FLOAT, ["rows", WIDTH])
    made = ir.Graph([x], [], nodes=[], opset_imports={"": OPSET})
    b = Builder(made, "float")
    y = b.op("MatMul", x, b.constant(weight))
    y.name, y.shape, y.dtype = "y", ir.Shape(["rows", OUT]), ir.DataType.FLOAT
    made.outputs.append(y)
    return ir.Model(made, ir_version=IR_VERSION)


@pytest.mark.parametrize(("draw", "expected"), CASES)
def test_the_least_fineness_that_is_enough_is_chosen_and_is_enough(
    weight: np.ndarray, draw: object, expected: Fineness
) -> None:
    assert callable(draw)
    x = draw()
    assert fineness(x, weight) is expected
    model = graph(weight)
    chosen = calibrate(model, {"x": x})
    assert set(chosen.values()) == {expected}
    quantize_frozen_products(model.graph, forward=chosen)
    (y,) = session(model).run(None, {"x": x})
    error = np.linalg.norm(y - x @ weight, axis=1) / np.linalg.norm(x @ weight, axis=1)
    assert np.sqrt((error**2).mean()) < 1.5 * LARGEST_ERROR  # the weights' own error comes on top


@pytest.mark.parametrize(("draw", "needed"), CASES[1:])
def test_less_would_not_be_enough(weight: np.ndarray, draw: object, needed: Fineness) -> None:
    assert callable(draw)
    x, model = draw(), graph(weight)
    less = {name: Fineness(needed - 1) for name in calibrate(model, {"x": x})}
    quantize_frozen_products(model.graph, forward=less)
    (y,) = session(model).run(None, {"x": x})
    error = np.linalg.norm(y - x @ weight, axis=1) / np.linalg.norm(x @ weight, axis=1)
    assert np.sqrt((error**2).mean()) > 1.5 * LARGEST_ERROR

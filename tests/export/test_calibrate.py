"""How an input is quantized follows from what it is like, and keeps its product."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from export.calibrate import LARGEST_ERROR, calibrate, choose
from export.forward import IR_VERSION, OPSET
from export.onnx_builder import Builder
from export.quantize import Fineness, Scheme, frozen_products, quantize_frozen_products, weight_name
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


def large_channels_and_rows() -> np.ndarray:
    x = large_channel()
    x[:2] *= 100
    return x


@pytest.fixture
def weight() -> np.ndarray:
    """The channel that may be large has little weight, so that the others matter."""
    drawn = np.random.default_rng(0).standard_normal((WIDTH, OUT)).astype(np.float32)
    drawn[7] *= 0.01
    return drawn


CASES = [
    (even, Fineness.TENSOR, False),
    (large_channel, Fineness.TENSOR, True),
    (large_rows, Fineness.ROWS, False),
    (large_channels_and_rows, Fineness.ROWS, True),
]


def graph(weight: np.ndarray) -> ir.Model:
    x = ir.val("x", ir.DataType.FLOAT, ["rows", WIDTH])
    made = ir.Graph([x], [], nodes=[], opset_imports={"": OPSET})
    b = Builder(made, "float")
    y = b.op("MatMul", x, b.constant(weight))
    y.name, y.shape, y.dtype = "y", ir.Shape(["rows", OUT]), ir.DataType.FLOAT
    made.outputs.append(y)
    return ir.Model(made, ir_version=IR_VERSION)


def product_error(x: np.ndarray, weight: np.ndarray, scheme: Scheme) -> float:
    """Of the product as onnxruntime computes it, relative, root mean square over the rows."""
    model = graph(weight)
    names = [weight_name(node.inputs[1]) for node in frozen_products(model.graph)]
    quantize_frozen_products(model.graph, forward=dict.fromkeys(names, scheme))
    (y,) = session(model).run(None, {"x": x})
    errors = np.linalg.norm(y - x @ weight, axis=1) / np.linalg.norm(x @ weight, axis=1)
    return float(np.sqrt((errors**2).mean()))


@pytest.mark.parametrize(("draw", "fineness", "by_channel"), CASES)
def test_the_cheapest_scheme_that_is_enough_is_chosen(
    weight: np.ndarray, draw: Callable[[], np.ndarray], fineness: Fineness, tmp_path: Path, *, by_channel: bool
) -> None:
    x = draw()
    (chosen,) = calibrate(graph(weight), {"x": x}, tmp_path).values()
    assert not list(tmp_path.iterdir())
    assert chosen.fineness is fineness
    assert (chosen.channels is not None) == by_channel
    assert product_error(x, weight, chosen) < 1.5 * LARGEST_ERROR  # the weights' own error comes on top


def test_a_model_without_products_worth_it_needs_no_schemes(weight: np.ndarray, tmp_path: Path) -> None:
    assert calibrate(graph(weight[:, :8]), {"x": even()}, tmp_path) == {}


@pytest.mark.parametrize("draw", [large_channel, large_rows, large_channels_and_rows])
def test_one_scale_would_not_be_enough(weight: np.ndarray, draw: Callable[[], np.ndarray]) -> None:
    assert product_error(draw(), weight, Scheme()) > 1.5 * LARGEST_ERROR


def test_what_neither_channels_nor_rows_even_out_is_quantized_twice() -> None:
    generator = np.random.default_rng(0)
    weight = np.repeat(generator.standard_normal((WIDTH // 2, OUT)).astype(np.float32), 2, axis=0)
    x = generator.standard_normal((ROWS, WIDTH)).astype(np.float32)
    for row, pair in enumerate(generator.integers(0, WIDTH // 2, ROWS)):  # large values elsewhere in every row
        x[row, 2 * pair : 2 * pair + 2] = 100, -100  # whose products cancel
    chosen = choose(x, [weight])
    assert chosen.fineness is Fineness.TWICE
    assert product_error(x, weight, chosen) < 1.5 * LARGEST_ERROR


def test_a_wide_weight_is_judged_by_a_part_of_its_columns(monkeypatch: pytest.MonkeyPatch, weight: np.ndarray) -> None:
    for draw, fineness, _ in CASES:
        whole = choose(draw(), [weight])
        with monkeypatch.context() as patch:
            patch.setattr("export.calibrate.SAMPLED", OUT // 3)
            assert choose(draw(), [weight]).fineness is whole.fineness is fineness


def test_products_of_one_input_share_its_scheme(tmp_path: Path) -> None:
    """So that it is quantized once: the factors of its channels serve both."""
    generator = np.random.default_rng(0)
    weights = [generator.standard_normal((WIDTH, n)).astype(np.float32) for n in (OUT, 2 * OUT)]
    for drawn in weights:
        drawn[7] *= 0.01
    model = graph(weights[0])
    b = Builder(model.graph, "second")
    model.graph.outputs.append(b.op("MatMul", model.graph.inputs[0], b.constant(weights[1])))
    first, second = calibrate(model, {"x": large_channel()}, tmp_path).values()
    assert first is second
    assert first.channels is not None

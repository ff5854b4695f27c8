"""Large constants stand in one file, each once, whoever reads them."""

from pathlib import Path

import numpy as np
import onnx_ir as ir

from export.forward import IR_VERSION, OPSET
from export.onnx_builder import Builder
from export.weights import save_with_shared_weights
from ravan.bundle import WEIGHTS
from ravan.runtime.session import open_session

WIDTH = 64


def model(*weights: np.ndarray) -> ir.Model:
    """X times one weight after the other."""
    x = ir.val("x", ir.DataType.FLOAT, ["rows", WIDTH])
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": OPSET})
    b, y = Builder(graph, "float"), x
    for weight in weights:
        y = b.op("MatMul", y, b.constant(weight))
    y.name, y.shape, y.dtype = "y", ir.Shape(["rows", WIDTH]), ir.DataType.FLOAT
    graph.outputs.append(y)
    return ir.Model(graph, ir_version=IR_VERSION)


def drawn(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((WIDTH, WIDTH)).astype(np.float32)


def test_a_weight_of_several_graphs_is_stored_once(tmp_path: Path) -> None:
    first, turned = drawn(0), drawn(1).T  # not in the order of its memory
    one, other = model(first, turned), model(first.copy(), drawn(2))
    save_with_shared_weights({"one.onnx": one, "again.onnx": one.clone(), "other.onnx": other}, tmp_path)
    assert (tmp_path / WEIGHTS).stat().st_size == 3 * first.nbytes  # a multiple of the alignment, so without gaps
    x = drawn(3)
    for name, second in (("one", turned), ("again", turned), ("other", drawn(2))):
        assert (tmp_path / f"{name}.onnx").stat().st_size < first.nbytes
        (y,) = open_session(tmp_path / f"{name}.onnx").run(["y"], {"x": x})
        np.testing.assert_allclose(y, x @ first @ second, rtol=1e-4, atol=1e-3)

"""int8 products: close to the float ones, fused by onnxruntime, and only where a frozen weight is."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx_ir.passes.common import RemoveUnusedNodesPass

from export.forward import IR_VERSION, OPSET
from export.onnx_builder import Builder
from export.quantize import quantize_embeddings, quantize_frozen_products, quantized_rows
from export.row_sizes import EVEN

WIDTH, OUT = 256, 192


def product_graph(weight: np.ndarray, *, transposed: bool = False) -> ir.Model:
    """y = x W, W an initializer, or the Transpose of one as the backward pass has it."""
    x = ir.val("x", ir.DataType.FLOAT, ["rows", weight.shape[0]])
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": OPSET})
    b = Builder(graph, "float")
    stored = b.constant(np.ascontiguousarray(weight.T) if transposed else weight)
    y = b.op("MatMul", x, b.op("Transpose", stored, perm=[1, 0]) if transposed else stored)
    y.name, y.shape, y.dtype = "y", ir.Shape(["rows", weight.shape[1]]), ir.DataType.FLOAT
    graph.outputs.append(y)
    return ir.Model(graph, ir_version=IR_VERSION)


def session(model: ir.Model, optimized: Path | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3  # onnxruntime notes that an optimized graph fits this machine
    if optimized:
        options.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.fixture
def weight() -> np.ndarray:
    """Columns of very different sizes, as trained weights have."""
    generator = np.random.default_rng(0)
    return np.asarray(generator.standard_normal((WIDTH, OUT)) * np.logspace(-3, 1, OUT), np.float32)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_product_is_within_two_percent_in_every_column(weight: np.ndarray, *, transposed: bool) -> None:
    x = np.random.default_rng(1).standard_normal((50, WIDTH)).astype(np.float32)
    model = product_graph(weight, transposed=transposed)
    assert quantize_frozen_products(model.graph) == 1
    (y,) = session(model).run(None, {"x": x})
    error = np.linalg.norm(y - x @ weight, axis=0) / np.linalg.norm(x @ weight, axis=0)
    assert error.max() < 0.02


def test_onnxruntime_fuses_the_product_into_one_kernel(weight: np.ndarray, tmp_path: Path) -> None:
    model = product_graph(weight)
    quantize_frozen_products(model.graph)
    session(model, tmp_path / "optimized.onnx")
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert kinds == {"DynamicQuantizeMatMul": 1}


@pytest.mark.parametrize("depth", [WIDTH, WIDTH + 1])
def test_no_pair_of_products_leaves_16_bits(depth: int) -> None:
    """As vpmaddubsw adds them on CPUs without VNNI, with weights and activations that would overflow if any could."""
    generator = np.random.default_rng(0)
    weight = generator.choice(np.array([-1, 1, 1], np.float32), (depth, OUT))
    model = product_graph(weight)
    quantize_frozen_products(model.graph)
    (product,) = (node for node in model.graph if node.op_type == "MatMulInteger")
    stored = ir.convenience.get_const_tensor(product.inputs[1])  # type: ignore[arg-type]
    assert stored is not None
    worst = 255 * stored.numpy().astype(np.int64)
    pairs = worst[0 : depth - 1 : 2] + worst[1::2]
    assert -(2**15) <= pairs.min() <= pairs.max() < 2**15


@pytest.mark.parametrize("rows", [30, 31])
def test_no_pair_leaves_16_bits_from_either_side(rows: int) -> None:
    generator = np.random.default_rng(0)
    weight = generator.choice(np.array([-1, 1, 1], np.float32), (rows, WIDTH))
    weight *= generator.uniform(0.1, 10, (rows, 1)).astype(np.float32)
    int8, scale = quantized_rows(weight)
    np.testing.assert_allclose(int8 * scale[:, None], weight, atol=np.abs(weight).max() / 60)
    for stored in (int8, int8.T):
        worst = 255 * stored.astype(np.int64)
        pairs = worst[0 : len(worst) - 1 : 2] + worst[1::2]
        assert -(2**15) <= pairs.min() <= pairs.max() < 2**15


def test_small_rows_of_a_gradient_survive_beside_large_ones(weight: np.ndarray) -> None:
    """Without dividing each row by its size, rows a million times smaller than the largest would vanish."""
    x = np.random.default_rng(1).standard_normal((20, WIDTH)).astype(np.float32)
    x *= np.logspace(-6, 0, 20, dtype=np.float32)[:, None]

    def worst_row(*, normalized: bool) -> float:
        model = product_graph(weight)
        quantize_frozen_products(model.graph, gradients=list(model.graph) if normalized else ())
        (y,) = session(model).run(None, {"x": x})
        expected = x @ weight
        return float((np.linalg.norm(y - expected, axis=1) / np.linalg.norm(expected, axis=1)).max())

    assert worst_row(normalized=True) < 0.02
    assert worst_row(normalized=False) > 0.5


def test_a_row_of_zeros_stays_zero(weight: np.ndarray) -> None:
    model = product_graph(weight)
    quantize_frozen_products(model.graph, gradients=list(model.graph))
    (y,) = session(model).run(None, {"x": np.zeros((3, WIDTH), np.float32)})
    np.testing.assert_array_equal(y, 0)


@pytest.mark.parametrize(("between", "even", "divisions"), [("Mul", False, 2), ("Mul", True, 1), ("MatMul", False, 1)])
def test_sizes_of_rows_pass_by_what_is_linear_in_them(between: str, divisions: int, *, even: bool) -> None:
    """Two gradient products with a factor or a matrix that is not frozen between them, rows six decades apart."""
    generator = np.random.default_rng(0)
    first, second, dense = (generator.standard_normal((WIDTH, WIDTH)).astype(np.float32) for _ in range(3))
    x, factor = (ir.val(n, ir.DataType.FLOAT, [axis, WIDTH]) for n, axis in (("x", "rows"), ("factor", "any")))
    graph = ir.Graph([x, factor], [], nodes=[], opset_imports={"": OPSET})
    b = Builder(graph, "float")
    if even:
        factor.meta[EVEN], dense = True, generator.uniform(0.5, 1.5, dense.shape).astype(np.float32)
    y = b.op("MatMul", b.op(between, b.op("MatMul", x, b.constant(first)), factor), b.constant(second))
    y.name, y.shape, y.dtype = "y", ir.Shape(["rows", WIDTH]), ir.DataType.FLOAT
    graph.outputs.append(y)
    assert quantize_frozen_products(graph, gradients=list(graph)) == 2
    model = ir.Model(graph, ir_version=IR_VERSION)
    RemoveUnusedNodesPass()(model)
    assert Counter(node.op_type for node in graph)["Div"] == divisions

    rows = generator.standard_normal((20, WIDTH)).astype(np.float32) * np.logspace(-6, 0, 20, dtype=np.float32)[:, None]
    values = {"x": rows, "factor": dense if between == "MatMul" else dense[:20]}
    middle = rows @ first * dense[:20] if between == "Mul" else rows @ first @ dense
    expected = middle @ second
    (seen,) = session(model).run(None, values)
    assert (np.linalg.norm(seen - expected, axis=1) / np.linalg.norm(expected, axis=1)).max() < 0.03


def test_one_number_goes_with_the_sizes_of_the_rows() -> None:
    """Which are fewer than the values: y = 3 (x W) W, rows six decades apart."""
    first, second = (np.random.default_rng(i).standard_normal((WIDTH, WIDTH)).astype(np.float32) for i in range(2))
    x = ir.val("x", ir.DataType.FLOAT, ["rows", WIDTH])
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": OPSET})
    b = Builder(graph, "float")
    y = b.op("MatMul", b.op("Mul", b.op("MatMul", x, b.constant(first)), 3.0), b.constant(second))
    y.name, y.shape, y.dtype = "y", ir.Shape(["rows", WIDTH]), ir.DataType.FLOAT
    graph.outputs.append(y)
    quantize_frozen_products(graph, gradients=list(graph))
    model = ir.Model(graph, ir_version=IR_VERSION)
    RemoveUnusedNodesPass()(model)
    assert Counter(node.op_type for node in graph)["Div"] == 1

    rows = np.random.default_rng(2).standard_normal((20, WIDTH)).astype(np.float32)
    rows *= np.logspace(-6, 0, 20, dtype=np.float32)[:, None]
    expected = 3 * rows @ first @ second
    (seen,) = session(model).run(None, {"x": rows})
    assert (np.linalg.norm(seen - expected, axis=1) / np.linalg.norm(expected, axis=1)).max() < 0.03


def test_what_is_small_or_not_frozen_is_left_alone() -> None:
    model = product_graph(np.ones((8, 8), np.float32))
    assert quantize_frozen_products(model.graph) == 0
    a, b = (ir.val(n, ir.DataType.FLOAT, [WIDTH, WIDTH]) for n in "ab")
    graph = ir.Graph([a, b], [], nodes=[], opset_imports={"": OPSET})
    Builder(graph, "float").op("MatMul", a, b)
    assert quantize_frozen_products(graph) == 0


def test_an_embedding_table_keeps_every_row_within_a_percent() -> None:
    generator = np.random.default_rng(0)
    table = (generator.standard_normal((300, 64)) * np.logspace(-3, 1, 300)[:, None]).astype(np.float32)
    ids = ir.val("ids", ir.DataType.INT64, ["batch", "length"])
    graph = ir.Graph([ids], [], nodes=[], opset_imports={"": OPSET})
    b = Builder(graph, "float")
    rows = b.op("Gather", b.constant(table), ids, axis=0)
    rows.name, rows.shape, rows.dtype = "rows", ir.Shape(["batch", "length", 64]), ir.DataType.FLOAT
    graph.outputs.append(rows)
    assert quantize_embeddings(graph) == 1
    picked = np.arange(300).reshape(30, 10)
    (seen,) = session(ir.Model(graph, ir_version=IR_VERSION)).run(None, {"ids": picked})
    error = np.linalg.norm(seen - table[picked], axis=-1) / np.linalg.norm(table[picked], axis=-1)
    assert error.max() < 0.01

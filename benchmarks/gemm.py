"""The machine's peak: matrix products of a model's layer shapes in onnxruntime itself, with the threads of our step.

usage: python -m benchmarks.gemm '[[k, n], ...]'; prints multiply-adds a second in float32 and in 8 bits.
"""

import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ravan.errors import RuntimeProblem
from ravan.runtime.footprint import PRESETS
from ravan.runtime.session import open_session

OPSET, IR_VERSION = 20, 10  # of the exported graphs, whose module would load torch
ROWS = 4096  # many: what a product costs beside its multiply-adds hardly counts
LARGEST = 1 << 24  # values of an output; fewer rows meet a vocabulary
SECONDS = 1.0  # that every product is repeated for; the fastest counts


def peak(shapes: Sequence[tuple[int, int]]) -> dict[str, float]:
    """The fastest of the shapes, multiply-adds a second."""
    return {kind: max(speed(kind, *shape) for shape in shapes) for kind in ("fp32", "int8")}


def speed(kind: str, k: int, n: int) -> float:
    """Multiply-adds a second of many rows x [rows, k] times a constant [k, n]."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"{kind}.onnx"
        onnx.save(int8_graph(k, n) if kind == "int8" else fp32_graph(k, n), path)
        session = open_session(path, PRESETS["fast"].runtime)
    rows = min(ROWS, LARGEST // n)
    x = {"x": np.random.default_rng(0).standard_normal((rows, k), np.float32)}
    fastest, end = math.inf, time.perf_counter() + SECONDS
    while time.perf_counter() < end or math.isinf(fastest):
        began = time.perf_counter()
        session.run(["y"], x)
        fastest = min(fastest, time.perf_counter() - began)
    return rows * k * n / fastest


def fp32_graph(k: int, n: int) -> onnx.ModelProto:
    """A MatMul."""
    weight = np.random.default_rng(1).standard_normal((k, n), np.float32)
    return _model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight}, k, n)


def int8_graph(k: int, n: int) -> onnx.ModelProto:
    """The product as ``export.quantize`` writes it, which onnxruntime runs as one DynamicQuantizeMatMul."""
    weight = np.random.default_rng(1).integers(-127, 128, (k, n)).astype(np.int8)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["q", "w", "zero"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["scale", "columns"], ["scales"]),
        helper.make_node("Mul", ["floats", "scales"], ["y"]),
    ]
    return _model(nodes, {"w": weight, "columns": np.full(n, 0.01, np.float32)}, k, n)


def _model(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], k: int, n: int) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", w]) for name, w in (("x", k), ("y", n)))
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "product", [x], [y], weights)
    return helper.make_model(graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)])


def main() -> None:
    """Measures and prints."""
    shapes = [(int(k), int(n)) for k, n in json.loads(sys.argv[1])]
    if not shapes:
        raise RuntimeProblem("The step has no frozen product to take shapes from: use a larger model.")
    print(json.dumps(peak(shapes)))


if __name__ == "__main__":
    main()

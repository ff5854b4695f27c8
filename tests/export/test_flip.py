"""What a backward product reads is neither copied nor computed anew where onnxruntime can read it in place."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from export.autodiff import RULES, differentiate
from export.forward import IR_VERSION, OPSET
from export.onnx_builder import Builder


def test_the_backward_product_of_a_permuted_operand_copies_nothing(tmp_path: Path) -> None:
    """q = x permuted [batch, heads, length, width] meets v: dq = dy v^T reads v, permuted once, swapped in place."""
    x, v = (ir.val(n, ir.DataType.FLOAT, shape) for n, shape in (("x", [2, 4, 5, 5]), ("v", [2, 5, 4, 3])))
    graph = ir.Graph([x, v], [], nodes=[], opset_imports={"": OPSET})
    b = Builder(graph, "forward")
    heads = b.op("Transpose", v, perm=[0, 2, 1, 3])
    y = b.op("MatMul", x, heads)
    for value, shape in ((heads, [2, 4, 5, 3]), (y, [2, 4, 5, 3])):
        value.shape, value.dtype = ir.Shape(shape), ir.DataType.FLOAT
    seed = np.random.default_rng(0).standard_normal((2, 4, 5, 3)).astype(np.float32)
    graph.outputs.extend([y, *differentiate(graph, {y: b.constant(seed)}, [x], RULES)])

    options = ort.SessionOptions()
    options.log_severity_level = 3  # onnxruntime notes that an optimized graph fits this machine
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    proto = ir.to_proto(ir.Model(graph, ir_version=IR_VERSION)).SerializeToString()
    session = ort.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert kinds["Transpose"] == 1

    values = np.random.default_rng(1).standard_normal((2, 5, 4, 3)).astype(np.float32)
    _, gradient = session.run(None, {"x": np.zeros((2, 4, 5, 5), np.float32), "v": values})
    np.testing.assert_allclose(gradient, seed @ values.transpose(0, 2, 3, 1), atol=1e-5)

"""Weights that stay mapped cost no memory of a process's own, and are left in the file where copies do not fit."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from export.forward import IR_VERSION, OPSET
from export.onnx_builder import Builder
from export.weights import save_with_shared_weights
from ravan.bundle import WEIGHTS, Bundle, Precision
from ravan.bundle_files import FileEntry
from ravan.room import least_memory
from ravan.runtime.footprint import fitting
from ravan.runtime.session import RuntimeOptions

WIDTH = 2048
SIZE = 4 * WIDTH**2  # bytes of W
MEASURED = """
import os, sys
from pathlib import Path
import numpy as np
from ravan.runtime.memory import mapped_part
from ravan.runtime.session import RuntimeOptions, open_session
from tests.large.watch import anonymous

folder, mapped, width = Path(sys.argv[1]), sys.argv[2] == "mapped", int(sys.argv[3])
x, begin = np.ones((4, width), np.float32), anonymous(os.getpid())
session = open_session(folder / "graph.onnx", RuntimeOptions(threads=1, mapped=mapped))
(y,) = session.run(["y"], {"x": x})
print(anonymous(os.getpid()) - begin, mapped_part(folder / "weights.bin"), float(y[0, 0]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph of x W W^T, as a forward and a backward pass read W."""
    made = tmp_path_factory.mktemp("graph")
    x = ir.val("x", ir.DataType.FLOAT, ["rows", WIDTH])
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": OPSET})
    b = Builder(graph, "float")
    W = b.constant(np.random.default_rng(0).standard_normal((WIDTH, WIDTH), np.float32))
    y = b.op("MatMul", b.op("MatMul", x, W), b.op("Transpose", W, perm=[1, 0]))
    y.name, y.shape, y.dtype = "y", ir.Shape(["rows", WIDTH]), ir.DataType.FLOAT
    graph.outputs.append(y)
    save_with_shared_weights({"graph.onnx": ir.Model(graph, ir_version=IR_VERSION)}, made)
    return made


def held(folder: Path, way: str) -> tuple[int, int, float]:
    """Of a process that has run the graph: anonymous memory it took, what it has mapped of the weights, a result."""
    command = [sys.executable, "-c", MEASURED, str(folder), way, str(WIDTH)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    anonymous, mapped, result = done.stdout.split()
    return int(anonymous), int(mapped), float(result)


def test_mapped_weights_are_in_no_memory_of_the_process(folder: Path) -> None:
    packed, _, expected = held(folder, "packed")
    anonymous, mapped, seen = held(folder, "mapped")
    assert packed > SIZE
    assert anonymous < SIZE // 2
    assert SIZE <= mapped < SIZE + 2**16
    assert seen == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("precision", "copies"), [(Precision.FP32, 2), (Precision.INT8, 1)])
def test_copies_are_made_only_where_they_fit(bundle: Bundle, precision: Precision, copies: int) -> None:
    manifest = replace(bundle.manifest, precision=precision, files={WEIGHTS: FileEntry(10**9, "0" * 64)})
    needed, usual = least_memory(manifest) + copies * 10**9, RuntimeOptions(threads=3)
    assert fitting(manifest, usual, needed) == usual
    assert fitting(manifest, usual, None) == usual
    assert fitting(manifest, usual, needed - 1) == replace(usual, mapped=True)


def test_the_measured_memory_leaves_mapped_weights_out(bundle: Bundle) -> None:
    assert 20e6 < least_memory(bundle.manifest) < 500e6

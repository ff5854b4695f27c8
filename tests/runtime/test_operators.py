"""What is in a graph is looked at before onnxruntime sees it."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from ravan.bundle import TRAIN, WEIGHTS, Bundle
from ravan.bundle_files import describe_file
from ravan.errors import BundleError
from ravan.runtime.operators import STANDARD, check_graph, check_graphs
from ravan.runtime.session import TrainStep

FLOAT = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])


def write(folder: Path, *nodes: onnx.NodeProto, **parts: object) -> Path:
    graph = helper.make_graph(nodes, "graph", [FLOAT], [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])])
    path = folder / "graph.onnx"
    path.write_bytes(helper.make_model(graph, **parts).SerializeToString())
    return path


def outside(location: str) -> onnx.TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def loop(body: onnx.NodeProto) -> onnx.NodeProto:
    inner = helper.make_graph([body], "body", [], [])
    return helper.make_node("Loop", ["n", "", "x"], ["y"], body=inner)


def test_every_operator_of_the_list_is_one_of_onnx() -> None:
    assert {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""} >= STANDARD


@pytest.mark.parametrize(
    ("node", "named"),
    [
        (helper.make_node("ImageDecoder", ["x"], ["y"]), "ImageDecoder"),
        (helper.make_node("RandomNormalLike", ["x"], ["y"]), "RandomNormalLike"),
        (helper.make_node("If", ["x"], ["y"]), "If"),
        (helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft"), "com.microsoft.EPContext"),
        (helper.make_node("GeluGrad", ["x"], ["y"], domain="com.microsoft"), "com.microsoft.GeluGrad"),
        (helper.make_node("MatMul", ["x", "x"], ["y"], domain="evil"), "evil.MatMul"),
        (loop(helper.make_node("StringNormalizer", ["x"], ["y"])), "StringNormalizer"),
        (loop(loop(helper.make_node("Steal\n", ["x"], ["y"], domain="evil"))), "evil.Steal?"),
    ],
)
def test_an_operator_that_no_device_runs_is_refused_by_name(tmp_path: Path, node: onnx.NodeProto, named: str) -> None:
    with pytest.raises(BundleError, match=rf"^graph.onnx has the operator {named.replace('?', '[?]')}, which"):
        check_graph(write(tmp_path, node), [])


def test_an_operator_that_the_file_defines_is_refused_by_name(tmp_path: Path) -> None:
    function = helper.make_function("evil", "Relu", ["x"], ["y"], [], [helper.make_opsetid("", 20)])
    path = write(tmp_path, helper.make_node("Relu", ["x"], ["y"]), functions=[function])
    with pytest.raises(BundleError, match=r"Relu \(defined by the file\)"):
        check_graph(path, [])


@pytest.mark.parametrize("location", ["/etc/shadow", "../devices/key", "other.bin", "weights.bin\0"])
def test_weights_are_taken_from_the_bundle_alone(tmp_path: Path, location: str) -> None:
    path = write(tmp_path, helper.make_node("Constant", [], ["y"], value=outside(location)))
    with pytest.raises(BundleError, match="which is not of the bundle"):
        check_graph(path, [WEIGHTS])
    check_graph(write(tmp_path, helper.make_node("Constant", [], ["y"], value=outside(WEIGHTS))), [WEIGHTS])


def test_gradient_operators_are_left_to_the_artifacts_of_onnxruntime_training(tmp_path: Path) -> None:
    path = write(tmp_path, helper.make_node("SoftmaxGrad_13", ["x"], ["y"], domain="com.microsoft"))
    check_graph(path, [], artifact=True)
    with pytest.raises(BundleError, match="SoftmaxGrad_13"):
        check_graph(path, [])


@pytest.mark.parametrize("data", [b"no graph", b"\x3a\xff\xff\xff\xff\x0f"])
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "graph.onnx"
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"graph\.onnx can't be read as ONNX"):
        check_graph(path, [])


def test_a_session_begins_only_after_the_check(bundle: Bundle, tmp_path: Path) -> None:
    check_graphs(bundle, bundle.manifest.files)
    path = tmp_path / TRAIN
    path.write_bytes(write(tmp_path, helper.make_node("RandomUniformLike", ["x"], ["y"])).read_bytes())
    files = {**bundle.manifest.files, TRAIN: describe_file(path)}
    with pytest.raises(BundleError, match="RandomUniformLike"):
        TrainStep(Bundle(tmp_path, replace(bundle.manifest, files=files)))

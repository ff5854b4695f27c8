"""Training graphs whose backward pass ends early: the same gradients for what they reach, and less to compute."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from export.bundle import ExportOptions, export_bundle
from export.text_classifier import text_classifier
from export.verify import perturbed
from ravan.bundle import INITIAL, TRAIN, WEIGHTS, Bundle, Precision
from ravan.bundle_files import OPTIONAL, top_graph
from ravan.heads import top_heads
from ravan.layout import Vector, trained_mask
from ravan.runtime.examples import random_batch
from ravan.runtime.names import GRADIENTS, LOSS, TRAINABLES
from ravan.runtime.session import Batch, TrainStep
from ravan.update import decode
from tests.conftest import LABELS, MAX_LENGTH


@pytest.fixture(scope="module")
def int8_bundle(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny model in int8."""
    out = tmp_path_factory.mktemp("shorter") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.quantize.SMALLEST", 32 * 32)  # the tiny model's layers count as products worth quantizing
        options = ExportOptions(rank=4, precision=Precision.INT8)
        return export_bundle(lambda: text_classifier(model_folder, LABELS, MAX_LENGTH), options, out, "model")


REACHED = (1, 2, 3)  # of the four adapted layers of the tiny models


def start_of(bundle: Bundle) -> Vector:
    """Trainables at which every gradient is at work."""
    spec = bundle.manifest.adapter
    return perturbed(spec, decode(spec, bundle.path(INITIAL).read_bytes()).trainables(spec))


def batch_of(bundle: Bundle) -> Batch:
    batch = random_batch(bundle, 3, min(bundle.manifest.max_length, 9) or 9, np.random.default_rng(1))
    return {name: np.ones_like(value) if value.dtype == np.bool_ else value for name, value in batch.items()}  # a mask


@pytest.mark.parametrize("kind", ["bundle", "lm_bundle", "t5_bundle", "label_bundle", "window_bundle", "tagger_bundle"])
def test_gradients_are_those_of_the_whole_graph_and_zero_below(request: pytest.FixtureRequest, kind: str) -> None:
    bundle: Bundle = request.getfixturevalue(kind)
    spec, flat, batch = bundle.manifest.adapter, start_of(bundle), batch_of(bundle)
    whole = TrainStep(bundle)(flat, batch)
    tops = sorted(int(match[1]) for name in bundle.manifest.files if (match := re.match(r"train-top-(\d+)", name)))
    assert tops
    assert np.isfinite(whole.gradients).all()
    for top in tops:
        shorter = TrainStep(bundle, graph=top_graph(top))(flat, batch)
        kept = trained_mask(spec, top_heads(top, len(spec.layers), spec.heads))
        assert shorter.loss == pytest.approx(whole.loss, abs=1e-6)
        np.testing.assert_allclose(shorter.gradients[kept], whole.gradients[kept], atol=1e-6)
        assert not shorter.gradients[~kept].any()
        assert shorter.gradients[kept].any()


def written(bundle: Bundle, graph: str) -> onnx.ModelProto:
    return onnx.load(bundle.path(graph), load_external_data=False)


def run_as_written(bundle: Bundle, graph: str) -> tuple[float, Vector]:
    """Loss and gradients without onnxruntime's fusions, which differ from graph to graph in the last bit.

    In int8 that bit decides how a value is rounded.
    """
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = ort.InferenceSession(str(bundle.path(graph)), settings)
    feed = {**batch_of(bundle), TRAINABLES: start_of(bundle)}
    loss, gradients = session.run([LOSS, GRADIENTS], {value.name: feed[value.name] for value in session.get_inputs()})
    return float(loss), gradients


@pytest.mark.parametrize("top", REACHED)
def test_in_int8_they_are_the_same_to_the_bit(int8_bundle: Bundle, top: int) -> None:
    spec = int8_bundle.manifest.adapter
    loss, whole = run_as_written(int8_bundle, TRAIN)
    assert "MatMulInteger" in {node.op_type for node in written(int8_bundle, top_graph(top)).graph.node}
    found, shorter = run_as_written(int8_bundle, top_graph(top))
    kept = trained_mask(spec, top_heads(top, len(spec.layers), spec.heads))
    assert found == loss
    np.testing.assert_array_equal(shorter, np.where(kept, whole, 0))


def test_heads_below_still_count_in_the_forward_pass(bundle: Bundle) -> None:
    flat, batch = start_of(bundle), batch_of(bundle)
    step = TrainStep(bundle, graph=top_graph(1))
    moved = flat.copy()
    moved[: bundle.manifest.adapter.rank**2] += 1.0  # H_1 of the lowest layer
    assert step(flat, batch).loss != step(moved, batch).loss


def test_the_fewer_layers_are_reached_the_fewer_products_there_are(bundle: Bundle) -> None:
    def products(graph: str) -> int:
        return Counter(node.op_type for node in written(bundle, graph).graph.node)["MatMul"]

    counts = [products(top_graph(top)) for top in REACHED] + [products(TRAIN)]
    assert counts == sorted(set(counts))


def test_they_share_the_weights_and_are_small_beside_them(bundle: Bundle) -> None:
    for top in REACHED:
        entry = bundle.manifest.files[top_graph(top)]
        assert top_graph(top) in OPTIONAL
        assert entry.size < bundle.manifest.files[TRAIN].size < bundle.manifest.files[WEIGHTS].size
        model = written(bundle, top_graph(top))
        places = {e.value for t in model.graph.initializer for e in t.external_data if e.key == "location"}
        assert places == {WEIGHTS}
    assert bundle.manifest.download_size == sum(
        entry.size for name, entry in bundle.manifest.files.items() if name not in map(top_graph, REACHED)
    )

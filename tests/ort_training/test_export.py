"""Artifacts beside a bundle's own graphs: held against them when they are made, and refused in a sentence."""

import subprocess
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
import pytest

from edge.optimizer import AdamW
from edge.training import MiniBatches
from export.bundle import ExportOptions, export_bundle
from export.causal_lm import causal_lm
from export.image_classifier import image_classifier
from export.inspect import facts
from export.onnx_builder import Builder
from export.ort_artifacts import require_agreement, write_artifacts
from export.recipe import Recipe
from export.train_step import train_graph
from ravan.artifacts import has_artifacts
from ravan.bundle import EVAL, INITIAL, PREFIX, TRAIN, Bundle, Precision
from ravan.bundle_files import ARTIFACTS, CHECKPOINT
from ravan.errors import ExportError
from ravan.inputs import Loss
from ravan.layout import tensors
from ravan.runtime.examples import read_examples
from ravan.runtime.names import GRADIENTS, LABELS, LOGITS, LOSS, TRAINABLES
from ravan.runtime.ort_training import VERSION, OrtProcess
from ravan.runtime.session import Batch, RuntimeOptions, TrainStep, open_session
from ravan.spec import AdapterSpec, LayerSpec
from ravan.update import decode
from tests.conftest import ROOT
from tests.images import SHAPES
from tests.ort_training.official_loop import RATE, STEPS


def test_the_manifest_vouches_for_the_artifacts(ort_bundle: Bundle, bundle: Bundle) -> None:
    manifest = ort_bundle.manifest
    assert has_artifacts(manifest)
    assert not has_artifacts(bundle.manifest)
    assert set(ARTIFACTS) < set(manifest.files)
    assert manifest.versions["onnxruntime-training"] == VERSION
    assert manifest.verification["ort_training"] < 1e-5
    assert manifest.memory["ort-training"] > 20_000_000
    assert facts(ort_bundle)["ort_training_bytes"] == sum(ort_bundle.path(name).stat().st_size for name in ARTIFACTS)
    assert manifest.download_size == bundle.manifest.download_size


def test_frozen_weights_stand_once_in_the_artifacts_and_nothing_of_the_workstation_does(ort_bundle: Bundle) -> None:
    weights = ort_bundle.path("weights.bin").stat().st_size
    assert ort_bundle.path(CHECKPOINT).stat().st_size < 1.2 * weights
    for name in ARTIFACTS:
        if name != CHECKPOINT:
            assert ort_bundle.path(name).stat().st_size < 80_000
        content = ort_bundle.path(name).read_bytes()
        assert not any(word in content for word in (b"site-packages", b".py:", str(ROOT).encode()))


@pytest.mark.parametrize("task", ["causal-lm", "image-classification"])
def test_other_tasks_have_artifacts_too(
    task: str, llama_folder: Path, image_models: dict[int, Path], ort_python: Path, tmp_path: Path
) -> None:
    """The language model with a frozen prefix and int8 products, of which the artifacts take the first."""
    options = ExportOptions(heads=2, rank=4, ort_python=ort_python)
    recipe: partial[Recipe] = partial(image_classifier, image_models[3], SHAPES)
    if task == "causal-lm":
        options = ExportOptions(heads=2, rank=4, ort_python=ort_python, top_layers=1, precision=Precision.INT8)
        recipe = partial(causal_lm, llama_folder, 16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.quantize.SMALLEST", 32 * 32)
        made = export_bundle(recipe, options, tmp_path / "bundle", "model").manifest
    assert made.verification["ort_training"] < 1e-5
    assert (PREFIX in made.files) == (task == "causal-lm")


def test_the_official_interface_trains_and_exports_the_artifacts(
    ort_bundle: Bundle, ort_python: Path, data: Path, tmp_path: Path
) -> None:
    """Its own AdamW, with one rate for all, ends where ours does; its inference model gives eval.onnx's logits."""
    spec = ort_bundle.manifest.adapter
    flat = decode(spec, ort_bundle.path(INITIAL).read_bytes()).trainables(spec)
    drawn = MiniBatches(read_examples(ort_bundle, data), 8, 0, np.random.default_rng(0))
    batches: list[Batch] = [next(drawn)[0] for _ in range(STEPS)]
    np.savez(tmp_path / "in.npz", **{f"{name}_{i}": x for i, batch in enumerate(batches) for name, x in batch.items()})  # type: ignore[arg-type]
    command = [str(ort_python), "-m", "tests.ort_training.official_loop", str(ort_bundle.folder)]
    command += [str(tmp_path / "in.npz"), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    step, optimizer = TrainStep(ort_bundle), AdamW(np.full(spec.size, RATE, np.float32), 0.0)
    for batch in batches:
        optimizer.step(flat, step(flat, batch).gradients)
    with np.load(tmp_path / "out.npz", allow_pickle=False) as seen:
        for name, wanted in tensors(spec, flat).items():
            np.testing.assert_allclose(seen[name], wanted, atol=1e-4, err_msg=name)
    (seen_logits,) = open_session(tmp_path / "out.onnx").run([LOGITS], batches[0])
    (wanted_logits,) = open_session(ort_bundle.path(EVAL)).run([LOGITS], {**batches[0], TRAINABLES: flat})
    np.testing.assert_allclose(seen_logits, wanted_logits, atol=1e-3)


SMALL = AdapterSpec((LayerSpec("layer", 2, 2),), heads=1, rank=2)


def forward_with(operator: str, **attributes: str) -> ir.Model:
    """Logits = operator(x H s), a graph as small as can be."""
    H, s = ir.val("layer.H", ir.DataType.FLOAT, [1, 2, 2]), ir.val("layer.s", ir.DataType.FLOAT, [1])
    x = ir.val("x", ir.DataType.FLOAT, ["batch", 2])
    graph = ir.Graph([H, s, x], [], nodes=[], opset_imports={"": 20}, name="forward")
    b = Builder(graph, "test")
    logits = b.op(operator, b.op("MatMul", x, b.op("Squeeze", b.op("Mul", H, s), b.ints([0]))), **attributes)
    logits.name, logits.dtype = LOGITS, ir.DataType.FLOAT
    graph.outputs.append(logits)
    model = ir.Model(graph, ir_version=10)
    passes.ShapeInferencePass()(model)
    return model


START = np.array([0.5, -1.0, 2.0, 0.25, 1.5], np.float32)


def test_an_operator_without_a_gradient_there_is_refused(ort_python: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"can't make artifacts .*Softplus.*: export without --with-ort-training"):
        write_artifacts(forward_with("Softplus"), SMALL, START, tmp_path, ort_python)


@pytest.mark.parametrize("objective", [Loss.CROSS_ENTROPY, Loss.MEAN_SQUARED_ERROR])
def test_gelu_by_tanh_has_its_own_gradient(objective: Loss, ort_python: Path, tmp_path: Path) -> None:
    """onnxruntime-training would take the exact GELU's."""
    forward = forward_with("Gelu", approximate="tanh")
    write_artifacts(forward, SMALL, START, tmp_path, ort_python, objective)
    ir.save(train_graph(forward, SMALL, objective=objective), tmp_path / TRAIN)
    x = np.array([[1.5, -0.5], [0.3, 2.0]], np.float32)
    batch = {"x": x, LABELS: x if objective is Loss.MEAN_SQUARED_ERROR else np.array([0, 1])}
    feed = {**batch, TRAINABLES: START}
    loss, gradients = open_session(tmp_path / TRAIN).run([LOSS, GRADIENTS], feed)
    with closing(OrtProcess(ort_python, tmp_path, SMALL, RuntimeOptions(1))) as process:
        seen = process.train(START, batch)
    assert seen[0] == pytest.approx(float(loss), abs=1e-6)
    np.testing.assert_allclose(seen[1], gradients, atol=2e-7)


def test_a_model_too_large_for_one_file_is_refused(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.ort_artifacts.LARGEST", 1)
        with pytest.raises(ExportError, match="--with-ort-training"):
            write_artifacts(forward_with("Tanh"), SMALL, START, tmp_path, Path("unused"))


@pytest.mark.parametrize("difference", [1e-3, float("nan")])
def test_artifacts_that_differ_are_refused(difference: float) -> None:
    with pytest.raises(ExportError, match=r"differ from train\.onnx"):
        require_agreement(difference, 1e-4)

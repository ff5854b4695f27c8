"""The bundle of an image classifier: its gradients are torch's, with and without a prefix, and it merges."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageClassification, ViTImageProcessorPil

from export.bundle import ExportOptions, export_bundle
from export.image_classifier import image_classifier
from export.inspect import facts
from export.merge import merge_bundle
from ravan.bundle import PREFIX, TRAIN, Bundle, ImageSettings, Precision, Task, open_bundle
from ravan.bundle_files import OPTIONAL
from ravan.errors import ExportError
from ravan.layout import Vector
from ravan.runtime.adapter import write_adapter
from ravan.runtime.examples import random_batch
from ravan.runtime.images import LabelledImages
from ravan.runtime.names import HIDDEN, LABELS, LOGITS, PIXEL_VALUES
from ravan.runtime.session import Batch, Evaluator, Prefix, TrainStep, open_session
from ravan.update import Update
from tests.images import HEIGHT, MEAN, SHAPES, STD, WIDTH, drawings, write_folder, write_npz, write_vit
from tests.ravan.updates import full_update

PATCHES = (HEIGHT // 4) * (WIDTH // 4)
OPTIONS = ExportOptions(heads=2, rank=4)


def export(model: Path, options: ExportOptions, out: Path) -> Bundle:
    return open_bundle(export_bundle(lambda: image_classifier(model, SHAPES), options, out, "vit").folder)


def noise(bundle: Bundle, rows: int) -> Batch:
    return random_batch(bundle, rows, 0, np.random.default_rng(rows))


def some_trainables(bundle: Bundle) -> Vector:
    """An adapter of sensible size, flat."""
    return adapter(bundle).trainables(bundle.manifest.adapter)


def adapter(bundle: Bundle) -> Update:
    full = full_update(bundle.manifest.adapter, np.random.default_rng(0))
    return Update(full.heads, np.float32(0.05) * full.sH, np.float32(0.05) * full.saved)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_bundle_holds_what_devices_need_to_see_images_as_the_model_does(
    image_bundles: dict[int, Bundle], channels: int
) -> None:
    manifest = image_bundles[channels].manifest
    assert manifest.task is Task.IMAGE_CLASSIFICATION
    assert manifest.labels == SHAPES
    assert manifest.image == ImageSettings(HEIGHT, WIDTH, (MEAN,) * channels, (STD,) * channels, PATCHES + 1)
    assert {name for name in manifest.files if name not in OPTIONAL} == set(manifest.task.device_files)
    assert manifest.verification["gradient"] < manifest.verification["tolerance"]
    assert {layer.name.rsplit(".", 1)[1] for layer in manifest.adapter.layers} == {"q_proj", "v_proj"}
    assert [tensor.name for tensor in manifest.adapter.saved] == ["classifier.weight", "classifier.bias"]
    assert manifest.memory["small"] > 0
    assert facts(image_bundles[channels])["image"]["height"] == HEIGHT


@pytest.mark.parametrize("rows", [1, 2, 7, 40])
def test_any_batch_size_runs(image_bundles: dict[int, Bundle], rows: int) -> None:
    bundle = image_bundles[3]
    flat, batch = some_trainables(bundle), noise(bundle, rows)
    result = TrainStep(bundle)(flat, batch)
    assert result.weight == rows
    assert result.gradients.shape == (bundle.manifest.adapter.size,)
    assert Evaluator(bundle).evaluate(flat, [batch]).loss == pytest.approx(result.loss, abs=1e-5)


def test_a_batch_has_the_mean_gradient_of_its_images(image_bundles: dict[int, Bundle]) -> None:
    step, flat, batch = TrainStep(image_bundles[1]), some_trainables(image_bundles[1]), noise(image_bundles[1], 5)
    alone = [step(flat, {name: value[i : i + 1] for name, value in batch.items()}) for i in range(5)]
    together = step(flat, batch)
    np.testing.assert_allclose(together.gradients, np.mean([one.gradients for one in alone], axis=0), atol=1e-5)
    assert together.loss == pytest.approx(np.mean([one.loss for one in alone]), abs=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_int8_bundle_points_the_same_way(
    image_models: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int
) -> None:
    monkeypatch.setattr("export.quantize.SMALLEST", 32 * 32)  # the tiny model's layers
    int8 = export(image_models[channels], replace(OPTIONS, precision=Precision.INT8), tmp_path / "int8")
    assert int8.manifest.verification["int8_cosine"] > 0.95
    kinds = {node.op_type for node in onnx.load(int8.path(TRAIN), load_external_data=False).graph.node}
    assert "MatMulInteger" in kinds


def test_adapters_in_the_top_layer_leave_a_prefix_and_the_same_gradients(
    image_models: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.quantize.SMALLEST", 32 * 32)  # the least product worth a prefix
    options = replace(OPTIONS, top_layers=1)
    split = export(image_models[1], options, tmp_path / "split")
    monkeypatch.setattr("export.bundle.split_prefix", lambda *_, **__: None)
    whole = export(image_models[1], options, tmp_path / "whole")
    assert PREFIX in split.manifest.files
    assert PREFIX not in whole.manifest.files
    flat, batch = some_trainables(whole), noise(whole, 6)
    hidden = Prefix(split)(batch)
    assert hidden.shape == (6, PATCHES + 1, 32)
    seen = TrainStep(split)(flat, {HIDDEN: hidden, LABELS: batch[LABELS]})
    expected = TrainStep(whole)(flat, batch)
    assert seen.loss == pytest.approx(expected.loss, abs=1e-6)
    np.testing.assert_allclose(seen.gradients, expected.gradients, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_merged_model_is_transformers_own_and_sees_a_file_as_devices_do(
    image_bundles: dict[int, Bundle], tmp_path: Path, channels: int
) -> None:
    bundle = image_bundles[channels]
    write_adapter(tmp_path / "adapter.safetensors", bundle.manifest, adapter(bundle), {})
    merged = merge_bundle(bundle, tmp_path / "adapter.safetensors", tmp_path / "merged")
    assert max(merged.transformers, merged.onnx) < 1e-4
    large = drawings(3, 0, channels)[0].repeat(2, axis=1).repeat(3, axis=2)
    write_folder(tmp_path / "photos", large, ["bar"] * 3)
    devices = LabelledImages.read(bundle, tmp_path / "photos").batch(range(3))
    processor = ViTImageProcessorPil.from_pretrained(tmp_path / "merged")
    files = sorted((tmp_path / "photos" / "bar").iterdir())
    theirs = processor([np.asarray(Image.open(path)).reshape(*large.shape[1:]) for path in files])
    np.testing.assert_allclose(np.stack(theirs[PIXEL_VALUES]), devices[PIXEL_VALUES], atol=1e-5)
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "merged").eval()
    assert model.config.id2label == dict(enumerate(SHAPES))
    with torch.no_grad():
        expected = model(pixel_values=torch.from_numpy(devices[PIXEL_VALUES])).logits.numpy()
    session = open_session(tmp_path / "merged" / "model.onnx")
    (seen,) = session.run([LOGITS], {PIXEL_VALUES: devices[PIXEL_VALUES]})
    np.testing.assert_allclose(seen, expected, atol=1e-5)


def test_a_folder_file_and_an_array_have_the_same_loss(image_bundles: dict[int, Bundle], tmp_path: Path) -> None:
    pixels, labels = drawings(9, 1)
    paths = [write_folder(tmp_path / "folder", pixels, labels), write_npz(tmp_path / "a.npz", pixels, labels)]
    evaluator, flat = Evaluator(image_bundles[1]), some_trainables(image_bundles[1])
    one, other = (
        evaluator.evaluate(flat, [LabelledImages.read(image_bundles[1], path).batch(range(9))]) for path in paths
    )
    assert one.loss == pytest.approx(other.loss, abs=1e-6)
    assert one.accuracy == other.accuracy


def test_without_an_image_processor_pixels_go_from_minus_one_to_one(
    image_models: dict[int, Path], tmp_path: Path
) -> None:
    assert normalization(image_models[3], tmp_path / "none", None) == ((0.5,) * 3, (0.5,) * 3)


def test_an_image_processor_that_does_not_normalize_leaves_zero_to_one(
    image_models: dict[int, Path], tmp_path: Path
) -> None:
    off = {"do_normalize": False, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    assert normalization(image_models[3], tmp_path / "off", off) == ((0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize(
    ("processor", "reason"),
    [
        ({"image_mean": [0.5] * 3, "image_std": [0.5, 0.0, 0.5]}, "image_std in preprocessor_config.json holds 0.0"),
        ({"image_mean": ["red"] * 3}, "image_mean or image_std in preprocessor_config.json is no list of numbers"),
        ({"image_std": [None] * 3}, "image_mean or image_std in preprocessor_config.json is no list of numbers"),
    ],
)
def test_an_image_processor_of_no_use_is_named(
    image_models: dict[int, Path], tmp_path: Path, processor: object, reason: str
) -> None:
    with pytest.raises(ExportError, match=re.escape(reason)):
        normalization(image_models[3], tmp_path / "bad", processor)


def test_an_image_processor_that_is_no_json_is_named(image_models: dict[int, Path], tmp_path: Path) -> None:
    shutil.copytree(image_models[3], tmp_path / "broken")
    (tmp_path / "broken" / "preprocessor_config.json").write_text("{")
    with pytest.raises(ExportError, match=r"preprocessor_config.json of .*broken can't be read"):
        image_classifier(tmp_path / "broken", SHAPES)


def normalization(model: Path, copy: Path, processor: object) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the recipe for the model with another image processor."""
    AutoModelForImageClassification.from_pretrained(model).save_pretrained(copy)
    if processor is not None:
        (copy / "preprocessor_config.json").write_text(json.dumps(processor))
    image = image_classifier(copy, SHAPES).settings["image"]
    return image.mean, image.std


def test_a_new_task_gets_a_new_classifier(image_models: dict[int, Path]) -> None:
    recipe = image_classifier(image_models[1], ("yes", "no"))
    assert recipe.settings["labels"] == ("yes", "no")
    assert recipe.model(**recipe.example(4, 0).batch).logits.shape == (4, 2)


def test_a_model_for_other_channels_is_refused(tmp_path: Path) -> None:
    write_vit(tmp_path / "vit", channels=4)
    with pytest.raises(ExportError, match="images of 4 channels: give a model for grey"):
        image_classifier(tmp_path / "vit", SHAPES)


def test_a_model_without_patches_is_refused(model_folder: Path) -> None:
    with pytest.raises(ExportError, match="which transformers does not have as AutoModelForImageClassification"):
        image_classifier(model_folder, SHAPES)

"""The bundle of a text classifier: what is in it, that it is right, and that a wrong one is never written."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors import SafetensorError

from export.architectures import Architecture
from export.autodiff import RULES, elementwise
from export.bundle import ExportOptions, export_bundle
from export.merge import merge_bundle
from export.text_classifier import text_classifier
from ravan.bundle import INITIAL, SOURCE, TRAIN, WEIGHTS, Bundle, Precision, open_bundle
from ravan.bundle_files import OPTIONAL
from ravan.errors import BundleError, EnvironmentProblem, ExportError, TargetError
from ravan.runtime.adapter import read_adapter, write_adapter
from ravan.runtime.names import ATTENTION_MASK, INPUT_IDS, LABELS, LOGITS
from ravan.runtime.session import TrainStep, open_session
from ravan.runtime.text import LabelledTexts, encode, tokenizer_of
from ravan.spec import Init
from ravan.update import Update, decode
from tests.conftest import LABELS as NAMES
from tests.conftest import MAX_LENGTH
from tests.ravan.updates import full_update

Export = Callable[[ExportOptions, Path], Bundle]


@pytest.fixture
def options() -> ExportOptions:
    return ExportOptions(heads=2, rank=2)


@pytest.fixture
def export(shallow_folder: Path) -> Export:
    """Exports a model of one layer."""
    return partial(export_model, shallow_folder)


def export_model(model: Path, options: ExportOptions, out: Path) -> Bundle:
    return export_bundle(lambda: text_classifier(model, NAMES, MAX_LENGTH), options, out, "model")


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """Where a refused export must leave nothing."""
    folder = tmp_path / "parent"
    folder.mkdir()
    yield folder / "bundle"
    assert list(folder.iterdir()) == []


def test_a_bundle_holds_what_its_manifest_says(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert manifest.labels == NAMES
    assert {layer.name.rsplit(".", 1)[1] for layer in manifest.adapter.layers} == {"query", "value"}
    assert [t.name.split(".")[0] for t in manifest.adapter.saved] == ["bert", "bert", "classifier", "classifier"]
    assert {name for name in manifest.files if name not in OPTIONAL} == set(manifest.task.device_files)
    assert manifest.verification["gradient"] < manifest.verification["tolerance"]
    initial = decode(manifest.adapter, bundle.path(INITIAL).read_bytes())
    assert not initial.sH.any()
    assert initial.heads.all()


def test_the_graph_is_plain_onnx_with_its_weights_in_one_file(bundle: Bundle) -> None:
    model = onnx.load(bundle.path(TRAIN), load_external_data=False)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    locations = {e.value for t in model.graph.initializer for e in t.external_data if e.key == "location"}
    assert locations == {WEIGHTS}
    assert bundle.path(TRAIN).stat().st_size < bundle.path(WEIGHTS).stat().st_size
    onnx.checker.check_model(str(bundle.path(TRAIN)), full_check=True)


def test_nothing_of_the_workstation_is_left_in_the_device_files(bundle: Bundle) -> None:
    for name in ("train.onnx", "eval.onnx", "manifest.json"):
        content = bundle.path(name).read_bytes()
        assert b"site-packages" not in content
        assert str(Path.home()).encode() not in content


@pytest.mark.parametrize(("batch", "length"), [(1, 2), (2, 16), (7, 5)])
def test_any_batch_and_length_runs(bundle: Bundle, batch: int, length: int) -> None:
    feed = {
        INPUT_IDS: np.ones((batch, length), np.int64),
        ATTENTION_MASK: np.ones((batch, length), np.int64),
        LABELS: np.zeros(batch, np.int64),
    }
    start = decode(bundle.manifest.adapter, bundle.path(INITIAL).read_bytes()).trainables(bundle.manifest.adapter)
    result = TrainStep(bundle)(start, feed)
    assert result.weight == batch
    assert result.gradients.shape == (bundle.manifest.adapter.size,)


def test_padding_does_not_change_a_gradient(bundle: Bundle) -> None:
    step, spec = TrainStep(bundle), bundle.manifest.adapter
    flat = full_update(spec, np.random.default_rng(0)).trainables(spec) * np.float32(0.1)
    ids = encode(tokenizer_of(bundle), ["the old apple", "old " * 12])
    texts = LabelledTexts(bundle.manifest, ids, [0, 0])
    alone, wide = texts.batch([0]), texts.batch([0, 1])
    padded = {name: value[:1] for name, value in wide.items()}
    assert padded[INPUT_IDS].shape[1] > alone[INPUT_IDS].shape[1]
    np.testing.assert_allclose(step(flat, padded).gradients, step(flat, alone).gradients, atol=1e-6)


def test_the_same_options_give_the_same_bundle(bundle: Bundle, model_folder: Path, tmp_path: Path) -> None:
    again = export_model(model_folder, ExportOptions(rank=4), tmp_path / "again")
    assert replace(again.manifest, memory={}) == replace(bundle.manifest, memory={})  # the one measured figure in it


@pytest.mark.parametrize(
    "init",
    [
        *(Init.NORMAL, Init.SHARED_SUBSPACE),
        *(pytest.param(init, marks=pytest.mark.kin) for init in (Init.GRAM_SCHMIDT, Init.CONSTANT)),
    ],
)
def test_every_init_exports(export: Export, options: ExportOptions, init: Init, tmp_path: Path) -> None:
    made = export(replace(options, init=init), tmp_path / "bundle")
    assert open_bundle(made.folder).manifest.adapter.init is init


def test_an_int8_bundle_points_the_same_way(
    export: Export, options: ExportOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.quantize.SMALLEST", 32 * 32)  # the tiny model's layers
    exact = export(options, tmp_path / "fp32")
    int8 = export(replace(options, precision=Precision.INT8), tmp_path / "int8")
    assert open_bundle(int8.folder).manifest.precision is Precision.INT8
    assert int8.manifest.verification["int8_cosine"] > 0.95
    assert int8.manifest.adapter == exact.manifest.adapter
    trained_adapter(int8, tmp_path / "adapter.safetensors")
    merged = merge_bundle(int8, tmp_path / "adapter.safetensors", tmp_path / "merged")
    assert max(merged.transformers, merged.onnx) < 1e-4
    kinds = {node.op_type for node in onnx.load(int8.path(TRAIN), load_external_data=False).graph.node}
    assert "MatMulInteger" in kinds


def test_an_int8_gradient_that_points_elsewhere_is_refused(
    export: Export, options: ExportOptions, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.quantize.SMALLEST", 32 * 32)
    monkeypatch.setattr("export.quantize.LARGEST", 1)  # one bit and a sign: far too coarse
    with pytest.raises(ExportError, match="--precision fp32"):
        export(replace(options, precision=Precision.INT8), out)


def test_a_pattern_without_a_layer_writes_nothing(export: Export, options: ExportOptions, out: Path) -> None:
    with pytest.raises(TargetError, match=r"'querry'.*query"):
        export(replace(options, targets=("querry",)), out)


def test_an_operator_without_a_rule_is_named_with_its_module(
    export: Export, options: ExportOptions, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.train_step.RULES", {})
    with pytest.raises(ExportError, match=r"Operator \w+ in module classifier .* has no gradient rule: .*--top-layers"):
        export(options, out)


def test_wrong_gradients_are_refused_by_the_name_of_the_worst(
    export: Export, options: ExportOptions, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RULES, "Gelu", elementwise.identity)
    with pytest.raises(ExportError, match=r"The gradient of bert\..*\.[Hs] is off by"):
        export(options, out)


def test_a_model_torch_cannot_export_is_named(out: Path, tmp_path: Path, options: ExportOptions) -> None:
    with pytest.raises(ExportError, match="give a model folder or hub id"):
        export_model(tmp_path / "nowhere", options, out)


def test_an_unknown_architecture_asks_for_targets(
    export: Export, options: ExportOptions, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.text_classifier.TEXT_CLASSIFIERS", {"other": Architecture((), ())})
    with pytest.raises(ExportError, match="--target and --train"):
        export(options, out)


def test_an_existing_folder_is_never_overwritten(export: Export, options: ExportOptions, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    with pytest.raises(EnvironmentProblem, match="exists already"):
        export(options, tmp_path / "bundle")


def trained_adapter(bundle: Bundle, path: Path, scale: float = 0.05) -> Update:
    """A random adapter of sensible size, written as the server writes it."""
    adapter = full_update(bundle.manifest.adapter, np.random.default_rng(0))
    scaled = Update(adapter.heads, np.float32(scale) * adapter.sH, np.float32(scale) * adapter.saved)
    write_adapter(path, bundle.manifest, scaled, {"round": 3})
    return scaled


def test_an_adapter_survives_its_file(bundle: Bundle, tmp_path: Path) -> None:
    written = trained_adapter(bundle, tmp_path / "adapter.safetensors")
    read = read_adapter(tmp_path / "adapter.safetensors", bundle.manifest.adapter)
    np.testing.assert_array_equal(read.sH, written.sH)
    np.testing.assert_array_equal(read.saved, written.saved)


def test_the_merged_model_loads_with_transformers_and_onnxruntime(bundle: Bundle, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    trained_adapter(bundle, tmp_path / "adapter.safetensors")
    merged = merge_bundle(bundle, tmp_path / "adapter.safetensors", tmp_path / "merged")
    assert max(merged.transformers, merged.onnx) < 1e-4
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    assert plain.config.id2label == dict(enumerate(NAMES))
    assert not any("ravan" in name.lower() for name in plain.state_dict())
    ids = torch.randint(4, 20, (3, 9))
    mask = torch.ones_like(ids)
    with torch.no_grad():
        expected = plain(input_ids=ids, attention_mask=mask).logits.numpy()
    session = open_session(tmp_path / "merged" / "model.onnx")
    (seen,) = session.run([LOGITS], {INPUT_IDS: ids.numpy(), ATTENTION_MASK: mask.numpy()})
    np.testing.assert_allclose(seen, expected, atol=1e-5)


def test_an_adapter_of_another_bundle_is_not_merged(bundle: Bundle, top_bundle: Bundle, tmp_path: Path) -> None:
    trained_adapter(top_bundle, tmp_path / "adapter.safetensors")
    with pytest.raises(BundleError, match="another bundle"):
        merge_bundle(bundle, tmp_path / "adapter.safetensors", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_merging_needs_the_unchanged_source(bundle: Bundle, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle.folder, tmp_path / "bundle")
    trained_adapter(bundle, tmp_path / "adapter.safetensors")
    config = copy / SOURCE / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"hidden_act": "relu"}))
    with pytest.raises(BundleError, match=r"source/config.json .* was changed"):
        merge_bundle(open_bundle(copy), tmp_path / "adapter.safetensors", tmp_path / "merged")


def test_an_adapter_too_large_to_merge_exactly_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    trained_adapter(bundle, tmp_path / "adapter.safetensors", scale=1e4)
    with pytest.raises(ExportError, match="logits are off by"):
        merge_bundle(bundle, tmp_path / "adapter.safetensors", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    export: Export, options: ExportOptions, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    with pytest.raises(EnvironmentProblem, match="No space left on device"):
        export(options, out)

"""Language models: the loss in chunks is the loss, its gradient is exact, and int8 stays close."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from export import language_loss
from export.bundle import ExportOptions, export_bundle
from export.causal_lm import causal_lm
from export.merge import merge_bundle
from ravan.bundle import INITIAL, Bundle, Precision
from ravan.errors import DataError, TargetError
from ravan.runtime.adapter import write_adapter
from ravan.runtime.names import ATTENTION_MASK, IGNORED, INPUT_IDS, LABELS
from ravan.runtime.session import Batch, Evaluator, TrainStep
from ravan.update import Update, decode
from ravan.writing import LanguageSettings
from tests.ravan.updates import full_update


def with_padding(bundle: Bundle) -> Bundle:
    """The same bundle for documents on their own."""
    language = bundle.manifest.language
    assert language is not None
    settings = LanguageSettings(language.vocabulary, language.end_id, packed=False)
    return Bundle(bundle.folder, replace(bundle.manifest, language=settings))


def noise(rows: int, length: int, classes: int) -> Batch:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, classes, (rows, length))
    labels[0, length // 2 :] = IGNORED
    ids = generator.integers(0, classes, (rows, length))
    return {INPUT_IDS: ids, ATTENTION_MASK: np.ones_like(ids), LABELS: labels}


def start(bundle: Bundle) -> np.ndarray:
    return decode(bundle.manifest.adapter, bundle.path(INITIAL).read_bytes()).trainables(bundle.manifest.adapter)


@pytest.mark.parametrize(("rows", "length"), [(1, 2), (3, 16), (16, 16)])  # less than a chunk, one, two and a part
def test_the_loss_in_chunks_is_torchs(lm_bundle: Bundle, llama_folder: Path, rows: int, length: int) -> None:
    batch = noise(rows, length, lm_bundle.manifest.classes)
    model = AutoModelForCausalLM.from_pretrained(llama_folder).eval()
    with torch.no_grad():
        logits = model(**{k: torch.tensor(batch[k]) for k in (INPUT_IDS, ATTENTION_MASK)}).logits
    labels = torch.tensor(batch[LABELS])
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED).item()
    result = TrainStep(lm_bundle)(start(lm_bundle), batch)
    seen = Evaluator(lm_bundle).evaluate(start(lm_bundle), [batch])
    assert result.loss == pytest.approx(expected, rel=1e-5)
    assert seen.loss == pytest.approx(expected, rel=1e-5)
    assert seen.perplexity == pytest.approx(np.exp(expected), rel=1e-4)
    counted = labels != IGNORED
    assert result.weight == seen.examples == counted.sum()
    assert seen.accuracy == pytest.approx((logits.argmax(-1) == labels)[counted].float().mean().item())


def test_the_size_of_a_chunk_changes_no_gradient(
    lm_bundle: Bundle, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language_loss, "ROWS", 5)
    monkeypatch.setattr("export.quantize.SMALLEST", 32 * 32)
    options = ExportOptions(heads=2, rank=4)
    small = export_bundle(lambda: causal_lm(llama_folder, 16), options, tmp_path / "bundle", "llama")
    batch = noise(3, 16, lm_bundle.manifest.classes)
    one, other = (TrainStep(bundle)(start(bundle), batch) for bundle in (lm_bundle, small))
    np.testing.assert_allclose(one.gradients, other.gradients, atol=1e-6)


def test_int8_points_the_same_way(llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.quantize.SMALLEST", 32 * 32)
    options = ExportOptions(heads=2, rank=4, precision=Precision.INT8)
    made = export_bundle(lambda: causal_lm(llama_folder, 16), options, tmp_path / "bundle", "llama")
    assert made.manifest.verification["int8_cosine"] > 0.95


@pytest.mark.parametrize(
    ("labels", "reason"),
    [(np.full((2, 4), IGNORED), "no label"), (np.full((2, 4), 10**6), "is 1000000"), (np.full((2, 4), -5), "is -5")],
)
def test_labels_that_mean_nothing_never_reach_the_graph(lm_bundle: Bundle, labels: np.ndarray, reason: str) -> None:
    batch = {**noise(2, 4, lm_bundle.manifest.classes), LABELS: labels}
    with pytest.raises(DataError, match=reason):
        TrainStep(lm_bundle)(start(lm_bundle), batch)
    with pytest.raises(DataError, match=reason):
        Evaluator(lm_bundle).evaluate(start(lm_bundle), [batch])


@pytest.mark.parametrize(
    "adapted", [ExportOptions(rank=4, targets=("lm_head",), saved=("norm",)), ExportOptions(rank=4, saved=("lm_head",))]
)
def test_an_output_layer_that_is_the_embeddings_too_is_refused(
    llama_folder: Path, tmp_path: Path, adapted: ExportOptions
) -> None:
    with pytest.raises(TargetError, match=r"lm_head.weight is also model.embed_tokens.weight"):
        export_bundle(lambda: causal_lm(llama_folder, 16), adapted, tmp_path / "b", "llama")


def test_an_output_layer_of_its_own_can_be_adapted(llama_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(llama_folder, tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(llama_folder, tie_word_embeddings=False)
    model.save_pretrained(tmp_path / "model")
    options = ExportOptions(rank=4, targets=("lm_head", "q_proj"), saved=("norm",))
    made = export_bundle(lambda: causal_lm(tmp_path / "model", 16), options, tmp_path / "b", "llama")
    assert made.manifest.verification["gradient"] < 1e-4
    assert made.manifest.adapter.layers[-1].name == "lm_head"


def test_the_merged_model_gives_the_adapted_ones_logits(lm_bundle: Bundle, tmp_path: Path) -> None:
    adapter = full_update(lm_bundle.manifest.adapter, np.random.default_rng(0))
    scaled = Update(adapter.heads, np.float32(0.05) * adapter.sH, adapter.saved)
    write_adapter(tmp_path / "adapter.safetensors", lm_bundle.manifest, scaled, {})
    merged = merge_bundle(lm_bundle, tmp_path / "adapter.safetensors", tmp_path / "merged")
    assert max(merged.transformers, merged.onnx) < 1e-4

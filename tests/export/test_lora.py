"""A trained adapter outside Ravan: PEFT gives the same logits, and an int8 inference graph nearly."""

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from export.bundle import ExportOptions, export_bundle
from export.lora import CONFIG, write_lora
from export.merge import INT8_INFERENCE, merge_bundle, reload
from ravan.bundle import SOURCE, Bundle
from ravan.errors import BundleError, EnvironmentProblem, ExportError
from ravan.runtime.adapter import write_adapter
from ravan.runtime.session import open_session
from ravan.spec import TensorSpec
from ravan.torch import inject, write_trainables
from ravan.update import Update
from tests.families.test_language import FAMILIES
from tests.ravan.updates import full_update


def trained(bundle: Bundle, path: Path) -> Update:
    """A random adapter, written to ``path``."""
    drawn = full_update(bundle.manifest.adapter, np.random.default_rng(0))
    adapter = Update(drawn.heads, np.float32(0.3) * drawn.sH, np.float32(0.1) * drawn.saved)
    write_adapter(path, bundle.manifest, adapter, {})
    return adapter


BUNDLES: list[tuple[str, Callable[[Any], Bundle]]] = [
    ("bundle", lambda found: found),
    ("lm_bundle", lambda found: found),
    ("image_bundles", lambda found: found[3]),
]


@pytest.mark.parametrize(("fixture", "pick"), [*BUNDLES, ("label_bundle", lambda found: found)])
def test_peft_gives_the_adapter_models_logits(
    fixture: str, pick: Callable[[Any], Bundle], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    bundle: Bundle = pick(request.getfixturevalue(fixture))
    adapter, spec = trained(bundle, tmp_path / "adapter.safetensors"), bundle.manifest.adapter
    written = write_lora(bundle, tmp_path / "adapter.safetensors", tmp_path / "lora")
    assert written.rank == spec.heads * spec.rank
    assert_same_logits(bundle, adapter, written.folder)


def assert_same_logits(bundle: Bundle, adapter: Update, lora: Path, model: Any = None) -> None:
    """PEFT loads the folder onto the model without a warning, and gives what the model with the adapter gives."""
    recipe, spec = reload(bundle, bundle.path(SOURCE)), bundle.manifest.adapter
    model = recipe.model if model is None else model
    batch = recipe.example(3, 9).batch
    with torch.no_grad():
        before = model(**batch).logits
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # PEFT warns of weights it finds no place for
            warnings.simplefilter("ignore", FutureWarning)
            plain: Any = PeftModel.from_pretrained(model, str(lora)).eval()
        seen = plain(**batch).logits
        ours = reload(bundle, bundle.path(SOURCE)).model
        inject(ours, spec)
        write_trainables(ours, spec, adapter.trainables(spec))
        expected = ours(**batch).logits
    assert (expected - before).abs().max() > 0.01  # the adapter does something
    torch.testing.assert_close(seen, expected, atol=1e-4, rtol=1e-4)


def test_more_rank_than_a_layer_is_wide_is_left_as_it_is(bundle: Bundle, tmp_path: Path) -> None:
    spec = replace(bundle.manifest.adapter, rank=12)  # 4 * 12 where d is 32
    wide = Bundle(bundle.folder, replace(bundle.manifest, adapter=spec))
    adapter = trained(wide, tmp_path / "adapter.safetensors")
    assert write_lora(wide, tmp_path / "adapter.safetensors", tmp_path / "lora").rank == 48
    assert_same_logits(wide, adapter, tmp_path / "lora")


def test_the_files_name_the_model_and_what_is_trained_whole(bundle: Bundle, tmp_path: Path) -> None:
    trained(bundle, tmp_path / "adapter.safetensors")
    write_lora(bundle, tmp_path / "adapter.safetensors", tmp_path / "lora")
    config = json.loads((tmp_path / "lora" / CONFIG).read_text())
    assert config["base_model_name_or_path"] == bundle.manifest.model
    assert config["lora_alpha"] == config["r"]
    assert set(config["modules_to_save"]) == {"bert.pooler.dense", "classifier"}


def test_an_adapter_of_another_bundle_becomes_no_lora(bundle: Bundle, lm_bundle: Bundle, tmp_path: Path) -> None:
    trained(lm_bundle, tmp_path / "adapter.safetensors")
    with pytest.raises(BundleError, match="another bundle"):
        write_lora(bundle, tmp_path / "adapter.safetensors", tmp_path / "lora")
    assert not (tmp_path / "lora").exists()


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Query and value, which are parts of one layer, a layer that is none, and one that is trained whole."""
    folder = tmp_path_factory.mktemp("gpt2")
    (family,) = (family for family in FAMILIES if family.model == "GPT-2")
    family.make(folder / "model")
    options = ExportOptions(heads=2, rank=4, targets=("query", "value", "c_fc"), saved=("1.attn.c_proj",))
    return export_bundle(lambda: family.recipe(folder / "model"), options, folder / "bundle", "gpt2")


def test_fused_and_turned_layers_become_those_of_the_model(gpt2: Bundle, tmp_path: Path) -> None:
    adapter = trained(gpt2, tmp_path / "adapter.safetensors")
    assert write_lora(gpt2, tmp_path / "adapter.safetensors", tmp_path / "lora").layers == 4
    plain = AutoModelForCausalLM.from_pretrained(gpt2.path(SOURCE)).eval()
    assert_same_logits(gpt2, adapter, tmp_path / "lora", plain)
    config = json.loads((tmp_path / "lora" / CONFIG).read_text())
    assert config["r"] == 8
    assert config["rank_pattern"] == {f"transformer.h.{i}.attn.c_attn": 16 for i in range(2)}


def test_a_part_of_a_fused_layer_trained_whole_is_named(gpt2: Bundle, tmp_path: Path) -> None:
    part = TensorSpec("transformer.h.0.attn.c_attn.key.weight", (32, 32))
    bundle = Bundle(gpt2.folder, replace(gpt2.manifest, adapter=replace(gpt2.manifest.adapter, saved=(part,))))
    trained(bundle, tmp_path / "adapter.safetensors")
    with pytest.raises(ExportError, match=r"c_attn.key was trained whole and is a part of a layer"):
        write_lora(bundle, tmp_path / "adapter.safetensors", tmp_path / "lora")
    assert not (tmp_path / "lora").exists()


def test_a_folder_that_exists_is_left_alone(bundle: Bundle, tmp_path: Path) -> None:
    trained(bundle, tmp_path / "adapter.safetensors")
    with pytest.raises(EnvironmentProblem):
        write_lora(bundle, tmp_path / "adapter.safetensors", tmp_path)


@pytest.mark.parametrize(("fixture", "pick"), BUNDLES, ids=[name for name, _ in BUNDLES])
def test_an_int8_inference_graph_agrees_and_holds_int8_weights(
    fixture: str,
    pick: Callable[[Any], Bundle],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("export.quantize.SMALLEST", 32 * 32)  # the tiny models' layers
    bundle: Bundle = pick(request.getfixturevalue(fixture))
    trained(bundle, tmp_path / "adapter.safetensors")
    merged = merge_bundle(bundle, tmp_path / "adapter.safetensors", tmp_path / "merged", int8=True)
    assert merged.int8 is not None
    assert merged.int8.cosine > 0.99
    assert merged.int8.predictions == (8 * 16 if bundle.manifest.language else 32)
    with torch.no_grad():
        batch = reload(bundle, merged.folder).example(3, 9).batch
        exact = reload(bundle, merged.folder).model(**batch).logits.numpy()
    (seen,) = open_session(merged.folder / INT8_INFERENCE).run(["logits"], {k: v.numpy() for k, v in batch.items()})
    assert 0 < np.abs(seen - exact).max() < 3 * merged.int8.difference  # of another batch, so about as large
    kinds = [
        node.op_type for node in onnx.load(tmp_path / "merged" / INT8_INFERENCE, load_external_data=False).graph.node
    ]
    assert "MatMulInteger" in kinds
    data = [tmp_path / "merged" / f"{name}.data" for name in ("model.onnx", INT8_INFERENCE)]
    plain, int8 = (path.stat().st_size for path in data)
    assert int8 < 0.5 * plain

"""The bundle of a token classifier, from the command line on: loss and accuracy are those of the tagged tokens."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForTokenClassification
from typer.testing import CliRunner

from export.cli import app
from ravan.bundle import INITIAL, SOURCE, Bundle, Task, open_bundle
from ravan.runtime.examples import random_batch, read_examples
from ravan.runtime.names import ATTENTION_MASK, IGNORED, INPUT_IDS, LABELS
from ravan.runtime.session import Evaluator, TrainStep
from ravan.update import decode
from tests.families.test_text import TAGS, tagged


@pytest.fixture(scope="module")
def tags_bundle(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("tags")
    (folder / "tags.txt").write_text("\n".join(TAGS))
    options = ["--labels", str(folder / "tags.txt"), "--max-length", "16", "--rank", "4"]
    done = CliRunner().invoke(app, ["token-classifier", str(model_folder), *options, "--out", str(folder / "bundle")])
    assert done.exit_code == 0, done.output
    return open_bundle(folder / "bundle")


def start(bundle: Bundle) -> np.ndarray:
    return decode(bundle.manifest.adapter, bundle.path(INITIAL).read_bytes()).trainables(bundle.manifest.adapter)


def test_the_manifest_says_what_was_asked_for(tags_bundle: Bundle) -> None:
    manifest = tags_bundle.manifest
    assert manifest.task is Task.TOKEN_CLASSIFICATION
    assert manifest.labels == TAGS
    assert {tensor.name for tensor in manifest.adapter.saved} == {"classifier.weight", "classifier.bias"}


def test_loss_and_accuracy_are_over_the_tagged_tokens(tags_bundle: Bundle, tmp_path: Path) -> None:
    examples = read_examples(tags_bundle, tagged(tmp_path))
    batch = examples.batch(range(12))
    model = AutoModelForTokenClassification.from_pretrained(tags_bundle.path(SOURCE)).eval()
    with torch.no_grad():
        logits = model(**{name: torch.from_numpy(batch[name]) for name in (INPUT_IDS, ATTENTION_MASK)}).logits
    labels = torch.from_numpy(batch[LABELS])
    counted = labels != IGNORED
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED).item()
    result, seen = (
        TrainStep(tags_bundle)(start(tags_bundle), batch),
        Evaluator(tags_bundle).evaluate(start(tags_bundle), [batch]),
    )
    assert [result.loss, seen.loss] == pytest.approx([expected] * 2, rel=1e-5)
    assert result.weight == seen.examples == counted.sum()
    assert seen.accuracy == pytest.approx((logits.argmax(-1) == labels)[counted].float().mean().item())


def test_padding_changes_no_gradient(tags_bundle: Bundle, tmp_path: Path) -> None:
    step, examples = TrainStep(tags_bundle), read_examples(tags_bundle, tagged(tmp_path))
    generator = np.random.default_rng(0)
    flat = start(tags_bundle) + np.float32(0.05) * generator.standard_normal(start(tags_bundle).shape, np.float32)
    short = min(range(len(examples)), key=examples.tokens)
    alone = examples.batch([short])
    wide = {
        name: np.pad(value, [(0, 0), (0, 8)], constant_values=IGNORED if name == LABELS else 0)
        for name, value in alone.items()
    }
    np.testing.assert_allclose(step(flat, wide).gradients, step(flat, alone).gradients, atol=1e-6)


def test_noise_for_measuring_has_a_label_for_every_token(tags_bundle: Bundle) -> None:
    batch = random_batch(tags_bundle, 2, 8, np.random.default_rng(0))
    assert batch[LABELS].shape == (2, 8)
    assert TrainStep(tags_bundle)(start(tags_bundle), batch).weight == 16

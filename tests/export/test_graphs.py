"""The micro-batch follows from the memory for activations, and recomputation from what even one row takes."""

from pathlib import Path

import numpy as np
import pytest

from export.bundle import ExportOptions, export_bundle
from export.graphs import choose_micro_batch
from export.text_classifier import text_classifier
from ravan.bundle import INITIAL, TRAIN, Bundle
from ravan.runtime.examples import random_batch
from ravan.runtime.session import TrainStep
from ravan.update import decode
from tests.conftest import LABELS, MAX_LENGTH
from tests.ravan.updates import full_update


@pytest.mark.parametrize(
    ("activations", "tokens", "memory", "micro_batch", "recomputed"),
    [
        (10, 128, 1000, 1024, False),
        (10, 128, 35, 384, False),
        (10, 128, 10, 128, False),
        (10, 128, 9, 128, True),
        (10, 3000, 1000, 3000, False),
    ],
)
def test_as_many_rows_as_fit(activations: int, tokens: int, memory: int, micro_batch: int, *, recomputed: bool) -> None:
    seen, budget = choose_micro_batch(activations, tokens, memory, {"length": tokens})
    assert seen == micro_batch
    assert (budget is not None) is recomputed


def test_a_bundle_within_a_budget_gives_the_same_gradients(bundle: Bundle, model_folder: Path, tmp_path: Path) -> None:
    options = ExportOptions(rank=4, activation_memory=45_000)
    tight = export_bundle(
        lambda: text_classifier(model_folder, LABELS, MAX_LENGTH), options, tmp_path / "bundle", "model"
    )
    assert tight.manifest.micro_batch == MAX_LENGTH < bundle.manifest.micro_batch
    assert tight.path(TRAIN).read_bytes().count(b"recompute") > 0
    spec = bundle.manifest.adapter
    flat = full_update(spec, np.random.default_rng(0)).trainables(spec) * np.float32(0.1)
    batch = random_batch(bundle, 5, 12, np.random.default_rng(1))
    one, other = (TrainStep(made)(flat, batch).gradients for made in (bundle, tight))
    np.testing.assert_allclose(other, one, atol=1e-6 * np.abs(one).max())
    assert decode(spec, tight.path(INITIAL).read_bytes()).heads.all()

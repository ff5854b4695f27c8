"""Sequence to sequence: the loss is transformers' own, all that is padding counts for nothing, int8 stays close."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from edge.hidden import HiddenExamples, HiddenStates
from edge.training import MiniBatches, accumulate, train_locally
from export.bundle import ExportOptions, export_bundle
from export.seq2seq import seq2seq
from ravan.bundle import INITIAL, PREFIX, SOURCE, Bundle, Precision, Task
from ravan.errors import DataError, ExportError, TargetError
from ravan.layout import Vector
from ravan.rpc.plan import TrainingPlan
from ravan.runtime.examples import in_order_of_size, micro_batches, random_batch, read_examples
from ravan.runtime.names import ATTENTION_MASK, DECODER_INPUT_IDS, IGNORED, INPUT_IDS, LABELS
from ravan.runtime.session import Batch, Evaluator, RuntimeOptions, TrainStep
from ravan.torch import inject, write_trainables
from ravan.update import decode
from tests.conftest import LABELS as NAMES
from tests.conftest import sentences, write_rows
from tests.seq2seq import END, PAD

OPTIONS = ExportOptions(heads=2, rank=4)


def start(bundle: Bundle) -> Vector:
    return decode(bundle.manifest.adapter, bundle.path(INITIAL).read_bytes()).trainables(bundle.manifest.adapter)


def apart(bundle: Bundle) -> Vector:
    """Trainables that no gradient of is zero at."""
    generator = np.random.default_rng(0)
    return start(bundle) + 0.1 * generator.standard_normal(bundle.manifest.adapter.size, np.float32)


def adapted(bundle: Bundle, trainables: Vector) -> PreTrainedModel:
    """The bundle's model with these heads, in torch."""
    model: PreTrainedModel = AutoModelForSeq2SeqLM.from_pretrained(bundle.path(SOURCE)).eval()
    inject(model, bundle.manifest.adapter)
    write_trainables(model, bundle.manifest.adapter, trainables)
    return model


def noise(bundle: Bundle, sizes: Sequence[tuple[int, int]]) -> Batch:
    """Random sources and targets of so many tokens, padded."""
    generator = np.random.default_rng(1)
    length, target = (max(numbers) for numbers in zip(*sizes, strict=True))
    batch = dict(random_batch(bundle, len(sizes), length, generator))
    for name in (DECODER_INPUT_IDS, LABELS):
        batch[name] = batch[name][:, :target].copy()
    for row, (source, labels) in enumerate(sizes):
        batch[INPUT_IDS][row, source:] = PAD
        batch[ATTENTION_MASK][row, source:] = 0
        batch[LABELS][row, labels:] = IGNORED
        batch[DECODER_INPUT_IDS][row, labels:] = PAD
    return batch


def padded(batch: Batch, more: int) -> Batch:
    """With so much more padding behind sources and targets."""
    fill = {INPUT_IDS: PAD, ATTENTION_MASK: 0, DECODER_INPUT_IDS: PAD, LABELS: IGNORED}
    return {name: np.pad(batch[name], ((0, 0), (0, more)), constant_values=value) for name, value in fill.items()}


def test_the_loss_is_that_of_transformers_which_shifts_the_labels_itself(t5_bundle: Bundle) -> None:
    batch, flat = noise(t5_bundle, [(5, 3), (16, 8), (9, 5)]), apart(t5_bundle)
    model = adapted(t5_bundle, flat)
    given = {name: torch.from_numpy(batch[name]) for name in (INPUT_IDS, ATTENTION_MASK, LABELS)}
    with torch.no_grad():
        expected = model(**given)
    result, seen = TrainStep(t5_bundle)(flat, batch), Evaluator(t5_bundle).evaluate(flat, [batch])
    assert result.loss == pytest.approx(expected.loss.item(), rel=1e-5)
    assert seen.loss == pytest.approx(expected.loss.item(), rel=1e-5)
    assert result.weight == seen.examples == 16
    hits = (expected.logits.argmax(-1) == given[LABELS]) & (given[LABELS] != IGNORED)
    assert seen.accuracy == pytest.approx(hits.sum().item() / 16)


def test_padding_changes_no_gradient(t5_bundle: Bundle) -> None:
    batch, flat, step = noise(t5_bundle, [(5, 3), (9, 4)]), apart(t5_bundle), TrainStep(t5_bundle)
    one, other = step(flat, batch), step(flat, padded(batch, 3))
    assert one.loss == pytest.approx(other.loss, rel=1e-6)
    np.testing.assert_allclose(one.gradients, other.gradients, atol=1e-5 * np.abs(one.gradients).max())


@pytest.mark.parametrize("tokens", [1, 40, 96])
def test_micro_batches_change_no_gradient(t5_bundle: Bundle, tmp_path: Path, tokens: int) -> None:
    rows = [
        {"source": row["text"], "target": " ".join([row["label"]] * (1 + i % 4))}
        for i, row in enumerate(sentences(8, 2))
    ]
    pairs = read_examples(t5_bundle, write_rows(tmp_path / "data.jsonl", rows))
    flat, step = apart(t5_bundle), TrainStep(t5_bundle)
    parts = micro_batches(pairs, range(len(pairs)), tokens)
    whole, added = step(flat, pairs.batch(range(len(pairs)))), accumulate(step, flat, parts)
    assert len(parts) > 1
    assert added.loss == pytest.approx(whole.loss, rel=1e-5)
    np.testing.assert_allclose(added.gradients, whole.gradients, atol=1e-5 * np.abs(whole.gradients).max())


def test_an_example_is_right_exactly_if_greedy_decoding_writes_its_label(label_bundle: Bundle, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "data.jsonl", sentences(30, 1))
    examples, spec = read_examples(label_bundle, path), label_bundle.manifest.adapter
    batches = MiniBatches(examples, 8, 0, np.random.default_rng(0))
    plan = TrainingPlan(local_steps=10, batch_size=8, learning_rate=2e-2)
    base = decode(spec, label_bundle.path(INITIAL).read_bytes())
    update = train_locally(TrainStep(label_bundle), spec, base, batches, plan, 1.0, np.random.default_rng(0)).update
    flat = update.trainables(spec)
    right, generate = 0, cast("Callable[..., torch.Tensor]", adapted(label_bundle, flat).generate)
    for batch in in_order_of_size(examples, 8):
        given = {name: torch.from_numpy(batch[name]) for name in (INPUT_IDS, ATTENTION_MASK)}
        written = generate(**given, max_new_tokens=8, do_sample=False, num_beams=1)
        for answer, labels in zip(written.tolist(), batch[LABELS], strict=True):
            wanted = labels[labels != IGNORED].tolist()
            right += answer[1 : 1 + len(wanted)] == wanted
    seen = Evaluator(label_bundle).evaluate(flat, in_order_of_size(examples, 8))
    assert 0 < right < 30, "some right and some wrong, or the test says little"
    assert (seen.accuracy, seen.examples) == (right / 30, 30)


def test_the_label_bundle_makes_room_for_its_longest_label(label_bundle: Bundle) -> None:
    settings = label_bundle.manifest.seq2seq
    assert settings is not None
    assert (settings.max_target, settings.start_id, settings.end_id) == (8, PAD, END)
    assert label_bundle.manifest.task is Task.SEQ2SEQ
    assert label_bundle.manifest.labels == NAMES


@pytest.fixture(scope="module")
def top(t5_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """With int8 products, and heads in the upper layer of encoder and decoder alone, there in all attention."""
    targets = "SelfAttention.q", "SelfAttention.v", "EncDecAttention.q", "EncDecAttention.v"
    options = replace(OPTIONS, top_layers=1, precision=Precision.INT8, targets=targets)
    out = tmp_path_factory.mktemp("top") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.quantize.SMALLEST", 32 * 32)  # the tiny model's layers count as products
        return export_bundle(lambda: seq2seq(t5_folder, (), 16, 8), options, out, "t5")


def test_int8_points_the_same_way(top: Bundle) -> None:
    assert top.manifest.verification["int8_cosine"] > 0.95


def test_below_the_top_layers_the_encoder_is_computed_once(top: Bundle, tmp_path: Path) -> None:
    names = [layer.name for layer in top.manifest.adapter.layers]
    assert {name.split(".layer")[0] for name in names} == {"encoder.block.1", "decoder.block.1"}
    assert len(names) == 6
    assert PREFIX in top.manifest.files
    rows = [{"source": row["text"], "target": row["label"]} for row in sentences(6, 2)]
    raw = read_examples(top, write_rows(tmp_path / "data.jsonl", rows))
    kept = HiddenExamples(raw, HiddenStates(top, RuntimeOptions(), tmp_path / "hidden.sqlite", 1 << 20))
    flat, step = apart(top), TrainStep(top)
    one, two = (step(flat, kept.batch(range(6))) for _ in range(2))
    assert kept.states.hits == 6
    np.testing.assert_array_equal(one.gradients, two.gradients)
    assert one.loss == pytest.approx(Evaluator(top).evaluate(flat, [raw.batch(range(6))]).loss, rel=2e-2)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"labels": ("fruit", "tool", "vehicle", "city")}, "writes labels 'vehicle' and 'city' alike"),
        ({"labels": NAMES, "max_target": 2}, "take up to 3 tokens: give --max-target-length 3 or leave it out"),
    ],
)
def test_labels_that_can_not_be_told_apart_or_written_are_refused(
    t5_folder: Path, tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    with pytest.raises(ExportError, match=reason):
        export_bundle(partial(seq2seq, t5_folder, **change), OPTIONS, tmp_path / "bundle", "t5")  # type: ignore[arg-type]
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("file", "key", "reason"),
    [
        ("*config.json", "decoder_start_token_id", "a decoder_start_token_id in its config"),
        ("tokenizer_config.json", "eos_token", "an end token in its tokenizer"),
        ("tokenizer_config.json", "pad_token", "a pad token in its tokenizer"),
    ],
)
def test_a_model_without_a_token_that_is_needed_says_which(
    t5_folder: Path, tmp_path: Path, file: str, key: str, reason: str
) -> None:
    shutil.copytree(t5_folder, tmp_path / "t5")
    for path in (tmp_path / "t5").glob(file):
        settings = json.loads(path.read_text())
        settings.pop(key, None)
        path.write_text(json.dumps(settings))
    with pytest.raises(ExportError, match=f"needs {reason}"):
        seq2seq(tmp_path / "t5")


def test_labels_outside_the_vocabulary_never_reach_the_graph(t5_bundle: Bundle) -> None:
    batch = noise(t5_bundle, [(5, 3)])
    for labels, reason in ((np.full((1, 3), IGNORED), "no label"), (np.full((1, 3), 10**6), "is 1000000")):
        with pytest.raises(DataError, match=reason):
            TrainStep(t5_bundle)(start(t5_bundle), {**batch, LABELS: labels})


def test_a_target_that_t5_does_not_have_names_the_closest(t5_folder: Path, tmp_path: Path) -> None:
    options = replace(OPTIONS, targets=("SelfAttention.query",))
    with pytest.raises(TargetError, match="closest are"):
        export_bundle(lambda: seq2seq(t5_folder, (), 16, 8), options, tmp_path / "bundle", "t5")

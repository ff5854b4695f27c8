"""The frozen prefix: the same gradients as without it, computed once, and never a wrong one from the disk."""

from pathlib import Path

import numpy as np
import pytest

from edge.hidden import HiddenExamples, HiddenStates
from edge.workshop import Workshop, require_memory
from ravan.bundle import INITIAL, PREFIX, Bundle
from ravan.errors import EnvironmentProblem
from ravan.runtime.examples import Examples
from ravan.runtime.names import HIDDEN, LABELS
from ravan.runtime.session import Evaluator, RuntimeOptions, TrainStep
from ravan.runtime.text import LabelledTexts
from ravan.update import decode
from tests.conftest import sentences, write_rows

QUOTA = 1 << 20


@pytest.fixture
def texts(top_bundle: Bundle, tmp_path: Path) -> LabelledTexts:
    return LabelledTexts.read(top_bundle, write_rows(tmp_path / "data.jsonl", sentences(12, 0)))


def states(bundle: Bundle, folder: Path, quota: int = QUOTA) -> HiddenStates:
    return HiddenStates(bundle, RuntimeOptions(1), folder / "hidden.sqlite", quota)


def start(bundle: Bundle) -> np.ndarray:
    return decode(bundle.manifest.adapter, bundle.path(INITIAL).read_bytes()).trainables(bundle.manifest.adapter)


def gradients(bundle: Bundle, examples: Examples, flat: np.ndarray) -> np.ndarray:
    return TrainStep(bundle)(flat, examples.batch(range(len(examples)))).gradients


def test_a_bundle_with_heads_above_holds_its_prefix(top_bundle: Bundle, bundle: Bundle) -> None:
    assert PREFIX in top_bundle.manifest.files
    assert PREFIX not in bundle.manifest.files
    assert {layer.name.split(".")[3] for layer in top_bundle.manifest.adapter.layers} == {"1"}


def test_the_loss_from_hidden_states_is_the_whole_models(
    top_bundle: Bundle, texts: LabelledTexts, tmp_path: Path
) -> None:
    prepared = HiddenExamples(texts, states(top_bundle, tmp_path))
    batch = prepared.batch(range(len(texts)))
    assert batch[HIDDEN].shape[:2] == (12, max(map(texts.tokens, range(12))))
    whole = Evaluator(top_bundle).evaluate(start(top_bundle), [texts.batch(range(len(texts)))])
    assert TrainStep(top_bundle)(start(top_bundle), batch).loss == pytest.approx(
        whole.loss, rel=2e-3
    )  # float16 between


def test_what_is_cached_changes_nothing(top_bundle: Bundle, texts: LabelledTexts, tmp_path: Path) -> None:
    flat = start(top_bundle)
    kept, none = states(top_bundle, tmp_path), states(top_bundle, tmp_path / "..", quota=0)
    first, again, without = (gradients(top_bundle, HiddenExamples(texts, s), flat) for s in (kept, kept, none))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, without)
    assert (kept.hits, kept.misses) == (12, 12)
    assert none.hits == 0


def test_the_next_process_finds_them(top_bundle: Bundle, texts: LabelledTexts, tmp_path: Path) -> None:
    before = states(top_bundle, tmp_path)
    HiddenExamples(texts, before).batch([0, 1])
    before.close()
    after = states(top_bundle, tmp_path)
    HiddenExamples(texts, after).batch([1, 2])
    assert (after.hits, after.misses) == (1, 1)


def test_another_label_is_the_same_example(top_bundle: Bundle, texts: LabelledTexts, tmp_path: Path) -> None:
    kept = states(top_bundle, tmp_path)
    one = texts.batch([0])
    kept.of(one)
    kept.of({**one, LABELS: one[LABELS] + 1})
    assert (kept.hits, kept.misses) == (1, 1)


@pytest.mark.parametrize("content", [b"no database" * 100, b""])
def test_a_damaged_cache_is_begun_anew(
    top_bundle: Bundle, texts: LabelledTexts, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "hidden.sqlite").write_bytes(content)
    kept = states(top_bundle, tmp_path)
    HiddenExamples(texts, kept).batch([0])
    assert kept.misses == 1


def test_the_quota_is_kept(top_bundle: Bundle, texts: LabelledTexts, tmp_path: Path) -> None:
    size = states(top_bundle, tmp_path).of(texts.batch([0])).nbytes
    tight = states(top_bundle, tmp_path / "..", quota=size)
    for i in (0, 1, 0, 1):
        tight.of(texts.batch([i]))
    assert (tight.hits, tight.misses) == (1, 3)


def test_a_device_too_small_is_told_before_anything_is_loaded(top_bundle: Bundle) -> None:
    needed = min(top_bundle.manifest.memory.values())
    require_memory(top_bundle, needed)
    require_memory(top_bundle, None)
    with pytest.raises(EnvironmentProblem, match=r"MB at least and .* MB are free.*--precision int8"):
        require_memory(top_bundle, needed - 1)


def test_the_workshop_prepares_what_the_bundle_wants(
    top_bundle: Bundle, bundle: Bundle, texts: LabelledTexts, tmp_path: Path
) -> None:
    workshop = Workshop(RuntimeOptions(1), tmp_path / "hidden.sqlite", QUOTA)
    assert HIDDEN in workshop.prepared(top_bundle, texts).batch([0])
    assert workshop.prepared(bundle, texts) is texts

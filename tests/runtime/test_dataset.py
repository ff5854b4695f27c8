"""A user's own data as batches: datasets by name and NPZ files, each bad example named, nothing unpickled."""

import pickle
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ravan.bundle import Bundle, Manifest
from ravan.errors import DataError, NoExamples, SettingsError
from ravan.runtime.dataset import DatasetExamples, find_dataset, random_arrays
from ravan.runtime.examples import micro_batches, read_examples
from ravan.runtime.names import IGNORED, INPUT_IDS, LABELS
from ravan.runtime.session import Evaluator, TrainStep
from tests.conftest import ROOT
from tests.custom_models import LONGEST, NAMES, STEPS, motion, write_tags, write_values, write_windows
from tests.walks import CHANNELS, TAGS, Walks, write_seed

WALKS = str(ROOT / "tests" / "walks.py") + ":Walks"


class Given:
    """A dataset of these examples; an exception among them is raised in its place."""

    def __init__(self, *examples: Any) -> None:
        self._examples = examples

    def __call__(self, path: Path, bundle: Bundle) -> "Given":
        return self

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        example = self._examples[index]
        if isinstance(example, Exception):
            raise example
        assert isinstance(example, Mapping)
        return example


def walk(steps: int, **parts: Any) -> dict[str, Any]:
    return {"x": np.ones((steps, CHANNELS)), "present": np.ones(steps, bool), "labels": [1] * steps} | parts


def read(bundle: Bundle, *examples: Any, skip_bad: bool = False) -> DatasetExamples:
    return DatasetExamples.read(bundle, Path("walks"), Given(*examples), skip_bad=skip_bad)


def test_examples_of_different_sizes_are_padded_and_what_pads_counts_for_nothing(tagger_bundle: Bundle) -> None:
    examples = read(tagger_bundle, walk(5), walk(2), walk(3, labels=[0, IGNORED, 3]))
    batch = examples.batch([2, 0])
    assert {name: (str(value.dtype), value.shape) for name, value in batch.items()} == {
        "x": ("float32", (2, 5, CHANNELS)),
        "present": ("bool", (2, 5)),
        "labels": ("int64", (2, 5)),
    }
    assert batch[LABELS].tolist() == [[0, IGNORED, 3, IGNORED, IGNORED], [1] * 5]
    assert batch["present"].sum(1).tolist() == [3, 5]
    assert [examples.tokens(i) for i in range(3)] == [5, 2, 3]
    assert [len(part[LABELS]) for part in micro_batches(examples, [0, 1, 2], 6)] == [2, 1]


def test_padding_does_not_change_the_loss(tagger_bundle: Bundle) -> None:
    manifest = tagger_bundle.manifest
    examples = DatasetExamples.read(tagger_bundle, Path(), lambda *_: Walks.of_seed(3))
    flat = np.random.default_rng(0).normal(0, 0.05, manifest.adapter.size).astype(np.float32)
    together = Evaluator(tagger_bundle).evaluate(flat, [examples.batch(range(20))])
    alone = Evaluator(tagger_bundle).evaluate(flat, [examples.batch([i]) for i in range(20)])
    assert together.loss == pytest.approx(alone.loss, abs=1e-5)
    assert together.accuracy == pytest.approx(alone.accuracy)
    assert together.examples == alone.examples


def test_one_step_is_padded_to_two(tagger_bundle: Bundle) -> None:
    assert read(tagger_bundle, walk(1)).batch([0])["x"].shape == (1, 2, CHANNELS)


def test_a_dataset_says_itself_what_an_example_counts_for(tagger_bundle: Bundle) -> None:
    class Counting(Given):
        def tokens(self, index: int) -> int:
            return 7 - 10 * index

    make = Counting(walk(4), walk(4))
    with pytest.raises(DataError, match="example 1: it counts for -3 tokens"):
        DatasetExamples.read(tagger_bundle, Path("walks"), make)
    assert DatasetExamples.read(tagger_bundle, Path("walks"), make, skip_bad=True).tokens(0) == 7


def test_text_bundles_take_a_dataset_too(bundle: Bundle) -> None:
    rows = [
        {INPUT_IDS: [5, 6, 7], "attention_mask": [1, 1, 1], LABELS: 2},
        {INPUT_IDS: [5], "attention_mask": [1], LABELS: 0},
    ]
    examples = DatasetExamples.read(bundle, Path(), Given(*rows))
    batch = examples.batch([0, 1])
    assert batch[INPUT_IDS].tolist() == [[5, 6, 7], [5, bundle.manifest.pad_id, bundle.manifest.pad_id]]
    assert batch[LABELS].tolist() == [2, 0]
    assert [examples.tokens(i) for i in range(2)] == [3, 1]
    TrainStep(bundle)(np.zeros(bundle.manifest.adapter.size, np.float32), batch)


def test_images_count_as_their_bundle_says(image_bundles: dict[int, Bundle]) -> None:
    manifest = image_bundles[1].manifest
    noise = random_arrays(manifest, 1, np.random.default_rng(0))
    examples = DatasetExamples.read(image_bundles[1], Path(), Given({name: value[0] for name, value in noise.items()}))
    assert manifest.image
    assert examples.tokens(0) == manifest.image.tokens


@pytest.mark.parametrize(
    ("example", "reason"),
    [
        (
            {"x": np.ones((3, CHANNELS)), "labels": [1, 1, 1]},
            "Input present is missing, expected is bool [batch, time]",
        ),
        (walk(3, y=1), "the bundle has no input y"),
        (walk(3, x=np.ones(3)), f"Input x is float32 [1, 3], expected is float32 [batch, time, {CHANNELS}]"),
        (walk(3, x=np.ones((3, 5))), f"Input x is float32 [1, 3, 5], expected is float32 [batch, time, {CHANNELS}]"),
        (walk(3, x=[["a"] * CHANNELS] * 3), "Input x is str"),
        (walk(3, x=[[1j] * CHANNELS] * 3), "Input x is complex128"),
        (walk(3, x=[[object()] * CHANNELS] * 3), "Input x is object"),
        (walk(3, x=[[1], [1, 2]]), "inhomogeneous"),
        (walk(3, x=np.full((3, CHANNELS), np.nan)), "Input x holds a value that is not finite"),
        (walk(3, x=np.full((3, CHANNELS), 1e300)), "Input x holds a value that is not finite"),
        (walk(3, present=np.ones(3)), "Input present is float64 [1, 3], expected is bool [batch, time]"),
        (walk(3, present=np.ones(4, bool)), "expected is bool [batch, time] with time 3 as in other inputs"),
        (walk(0), "with time from 1 to 32"),
        (walk(LONGEST + 1), "with time from 1 to 32"),
        (walk(3, labels=[0, 1, TAGS]), f"A label is {TAGS}, the bundle knows 0 to {TAGS - 1}"),
        (walk(3, labels=[0, 1, -1]), "A label is -1, the bundle knows 0 to 3"),
        (walk(3, labels=[IGNORED] * 3), "No label counts"),
        (walk(3, labels=[0.5, 1, 1]), "Input labels is float64"),
        (KeyError("sensor"), "KeyError: 'sensor'"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_bad_example_is_named_or_left_out(tagger_bundle: Bundle, example: Any, reason: str) -> None:
    with pytest.raises(DataError) as refused:
        read(tagger_bundle, walk(4), example)
    assert "walks, example 1: " in str(refused.value)
    assert reason in str(refused.value)
    examples = read(tagger_bundle, walk(4), example, walk(5), skip_bad=True)
    assert (len(examples), examples.skipped) == (2, 1)
    assert examples.batch([0, 1])["x"].shape == (2, 5, CHANNELS)
    with pytest.raises(NoExamples, match="no usable example"):
        read(tagger_bundle, example, skip_bad=True)


def test_a_dataset_that_can_t_be_made_is_one_sentence(tagger_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"The dataset can't read .* \(FileNotFoundError: "):
        DatasetExamples.read(tagger_bundle, tmp_path, find_dataset(WALKS))
    with pytest.raises(DataError, match=r"\(TypeError: object of type 'int' has no len\(\)\)"):
        DatasetExamples.read(tagger_bundle, tmp_path, lambda *_: 3)  # type: ignore[arg-type]
    with pytest.raises(NoExamples):
        read(tagger_bundle)


def test_an_example_that_changes_later_ends_with_a_sentence(tagger_bundle: Bundle) -> None:
    rows = [walk(4)]
    examples = DatasetExamples.read(tagger_bundle, Path("walks"), lambda *_: rows)
    rows[0] = walk(4, labels=[9] * 4)
    with pytest.raises(DataError, match="walks has changed: A label is 9"):
        examples.batch([0])


def test_a_bundle_too_old_to_name_its_inputs_says_so(tagger_bundle: Bundle) -> None:
    from dataclasses import replace

    old = Bundle(tagger_bundle.folder, replace(tagger_bundle.manifest, inputs=()))
    with pytest.raises(SettingsError, match="ask the operator to export it again"):
        read(old, walk(3))


def test_a_dataset_is_found_in_a_file_in_a_module_and_by_an_installed_name(
    tagger_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = [
        EntryPoint("walks", "tests.walks:Walks", "ravan.datasets"),
        EntryPoint("bad", "gone:X", "ravan.datasets"),
    ]
    monkeypatch.setattr("ravan.runtime.dataset.entry_points", lambda group: installed)
    data = write_seed(tmp_path / "seed")
    for name in (WALKS, "tests.walks:Walks", "walks"):
        examples = read_examples(tagger_bundle, data, make=find_dataset(name))
        assert len(examples) == len(Walks.of_seed(1))
    with pytest.raises(SettingsError, match=r"No dataset 'runs' is installed \(there is bad, walks\)"):
        find_dataset("runs")
    with pytest.raises(SettingsError, match="Dataset bad can't be imported"):
        find_dataset("bad")
    with pytest.raises(SettingsError, match=r"Dataset tests.walks:TAGS is int: name a class"):
        find_dataset("tests.walks:TAGS")


def test_npz_files_are_what_custom_bundles_read(window_bundle: Bundle, tmp_path: Path) -> None:
    x, labels = motion(9, 0)
    numbers = read_examples(window_bundle, write_windows(tmp_path / "numbers.npz", 9, 0))
    np.savez(tmp_path / "names.npz", x=x.astype(np.float64), labels=np.array(NAMES)[labels])
    names = read_examples(window_bundle, tmp_path / "names.npz")
    for examples in (numbers, names):
        batch = examples.batch(range(9))
        np.testing.assert_array_equal(batch["x"], x)
        np.testing.assert_array_equal(batch[LABELS], labels)
        assert examples.tokens(0) == 1


def test_a_bad_npz_file_is_one_sentence(window_bundle: Bundle, tmp_path: Path) -> None:
    x, labels = motion(6, 0)
    path = tmp_path / "data.npz"
    for arrays, reason in (
        ({"x": x}, "has no array labels: write it with numpy.savez(path, x=..., labels=...)"),
        ({"x": x, "labels": labels[:5]}, "x [6, 24, 3], labels [5]: give every array one entry for each example"),
        ({"x": x, "labels": 3}, "give every array one entry for each example"),
        (
            {"x": x[:, 1:], "labels": labels},
            "example 0: Input x is float32 [1, 23, 3], expected is float32 [batch, 24, 3]",
        ),
        ({"x": x, "labels": labels.astype(float)}, "example 0: Input labels is float64"),
        ({"x": x, "labels": ["still"] * 5 + ["warp"]}, "example 5: unknown label 'warp'"),
        ({"x": x, "labels": labels + 1}, "example 2: A label is 3, the bundle knows 0 to 2"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(DataError) as refused:
            read_examples(window_bundle, path)
        assert reason in str(refused.value)


def test_nothing_is_ever_unpickled(window_bundle: Bundle, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    objects = np.empty(2, object)
    objects[:] = [Evil(), Evil()]
    np.savez(tmp_path / "objects.npz", x=objects, labels=np.arange(2))
    (tmp_path / "plain.npz").write_bytes(pickle.dumps(Evil()))
    np.save(tmp_path / "array.npy", np.zeros((2, STEPS, CHANNELS)))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    (tmp_path / "cut.npz").write_bytes(write_windows(tmp_path / "whole.npz").read_bytes()[:500])
    for name in ("objects.npz", "plain.npz", "array.npz", "cut.npz"):
        with pytest.raises(DataError, match="is no NPZ file of arrays: write it with numpy"):
            read_examples(window_bundle, tmp_path / name)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(DataError, match="can't be read"):
        read_examples(window_bundle, tmp_path / "missing.npz")


def test_values_to_be_told_have_one_size(value_bundle: Bundle, tmp_path: Path) -> None:
    examples = read_examples(value_bundle, write_values(tmp_path / "values.npz", 6))
    assert examples.batch([0, 1])[LABELS].tolist() == [[0.0, 0.0], [1.0, 2.0]]
    x = motion(2, 0)[0]
    np.savez(tmp_path / "bad.npz", x=x, labels=np.array([[1, np.inf], [0, 0]]))
    with pytest.raises(DataError, match="Input labels holds a value that is not finite"):
        read_examples(value_bundle, tmp_path / "bad.npz")


def test_noise_for_measuring_fits_the_graphs(tagger_bundle: Bundle, window_bundle: Bundle, tmp_path: Path) -> None:
    for bundle in (tagger_bundle, window_bundle):
        manifest: Manifest = bundle.manifest
        noise = random_arrays(manifest, 3, np.random.default_rng(0))
        assert TrainStep(bundle)(np.zeros(manifest.adapter.size, np.float32), noise).weight > 0
    assert noise["x"].shape == (3, STEPS, CHANNELS)
    assert read_examples(tagger_bundle, write_tags(tmp_path / "tags.npz")).tokens(0) == LONGEST

"""What ravan-edge predict says is what torch computes, for every task, and what it can't say it says in a sentence."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from edge.cli import app
from edge.predict import predict
from edge.settings import PredictSettings
from export.bundle import ExportOptions, export_bundle
from export.merge import reload
from export.recipe import logits_of
from export.token_classifier import token_classifier
from ravan.bundle import EVAL, SOURCE, TOKENIZER, Bundle, open_bundle
from ravan.bundle_files import MANIFEST, describe_file
from ravan.cli.settings import validate
from ravan.errors import BundleError, DataError, NoExamples, RavanError, SettingsError
from ravan.runtime.adapter import write_adapter
from ravan.runtime.images import LabelledImages
from ravan.runtime.names import FOLLOWING, PIXEL_VALUES
from ravan.torch import inject, write_trainables
from ravan.update import Update
from tests.custom_models import NAMES, motion
from tests.families.test_text import TAGS
from tests.images import SHAPES, drawings, write_folder, write_npz
from tests.ravan.updates import full_update
from tests.walks import Walks, write_seed


class Tokens:
    """A dataset of one text that says nothing."""

    def __init__(self, path: Path, bundle: Bundle) -> None:
        pass

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return {"input_ids": [3, 4], "attention_mask": [1, 1]}


class Tuned:
    """A bundle's model with a random adapter: as a file for ravan-edge, and in torch."""

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        drawn = full_update(bundle.manifest.adapter, np.random.default_rng(0))
        update = Update(drawn.heads, np.float32(0.3) * drawn.sH, np.float32(0.3) * drawn.saved)
        self.bundle, self.adapter = bundle, folder / f"{bundle.manifest.task}.safetensors"
        write_adapter(self.adapter, bundle.manifest, update, {})
        self.model: nn.Module = reload(bundle, bundle.path(SOURCE)).model
        inject(self.model, bundle.manifest.adapter)
        write_trainables(self.model, bundle.manifest.adapter, update.trainables(bundle.manifest.adapter))

    def logits(self, **inputs: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return logits_of(self.model(**inputs))

    def ask(self, **given: object) -> list[dict[str, Any]]:
        return [answer.row() for answer in predict(self.settings(**given))]

    def settings(self, **given: object) -> PredictSettings:
        fixed = {"adapter": self.adapter, "bundle": self.bundle.folder, "threads": 1}
        return validate(PredictSettings, fixed | given)

    def ids(self, text: str | list[str]) -> torch.Tensor:
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(self.bundle.path(TOKENIZER)))
        return torch.tensor([tokenizer(text, is_split_into_words=isinstance(text, list))["input_ids"]])


@pytest.fixture
def texts(bundle: Bundle, tmp_path: Path) -> Tuned:
    return Tuned(bundle, tmp_path)


@pytest.fixture
def language(lm_bundle: Bundle, tmp_path: Path) -> Tuned:
    return Tuned(lm_bundle, tmp_path)


@pytest.fixture
def pictures(image_bundles: dict[int, Bundle], tmp_path: Path) -> Tuned:
    return Tuned(image_bundles[3], tmp_path)


def assert_probabilities(said: Mapping[str, float], labels: tuple[str, ...], logits: torch.Tensor) -> None:
    expected = dict(zip(labels, torch.softmax(logits, -1).tolist(), strict=True))
    assert said == pytest.approx(expected, abs=1e-4)
    assert list(said) == sorted(expected, key=expected.__getitem__, reverse=True)


def test_texts_of_every_source_have_torchs_probabilities(texts: Tuned, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("one old horse\n\nthe hammer\n", "utf-8")
    (tmp_path / "rows.jsonl").write_text(
        '{"text": "near a plum", "label": "unknown here"}\n{"prompt": "far"}\n', "utf-8"
    )
    (tmp_path / "rows.csv").write_text("text\nthe big saw and the small drill near the old lynx\n", "utf-8")
    files = [tmp_path / name for name in ("lines.txt", "rows.jsonl", "rows.csv")]
    said = texts.ask(text=["a new crow"], data=files)
    assert [row["text"] for row in said][:5] == ["a new crow", "one old horse", "the hammer", "near a plum", "far"]
    assert len(said) == 6
    for row in said:
        assert_probabilities(
            row["probabilities"], texts.bundle.manifest.labels, texts.logits(input_ids=texts.ids(row["text"]))[0]
        )
        assert row["probability"] == row["probabilities"][row["label"]] == max(row["probabilities"].values())
    assert [list(row["probabilities"]) for row in texts.ask(text=["a new crow"], top=1)] == [[said[0]["label"]]]


def test_images_of_every_source_have_torchs_probabilities(pictures: Tuned, tmp_path: Path) -> None:
    pixels, labels = drawings(4, 1, 3)
    data = LabelledImages.read(pictures.bundle, write_npz(tmp_path / "images.npz", pixels, labels))
    expected = pictures.logits(pixel_values=torch.from_numpy(data.batch(range(4))[PIXEL_VALUES]))
    np.savez(tmp_path / "unlabelled.npz", images=pixels)
    deep = write_folder(tmp_path / "photos" / "of" / "today", pixels, ["any"] * 4)
    for source in (tmp_path / "unlabelled.npz", tmp_path / "photos"):
        for row, logits in zip(pictures.ask(data=[source]), expected, strict=True):
            assert_probabilities(row["probabilities"], SHAPES, logits)
    (single,) = pictures.ask(data=[deep / "any" / "0002.png"])
    assert single["image"].endswith("any/0002.png")
    assert_probabilities(single["probabilities"], SHAPES, expected[2])


def test_a_language_model_writes_on_as_greedy_decoding_does(language: Tuned) -> None:
    for text in ("a crow and", "the horse is in the house, the mouse"):  # the second is longer than a sequence
        ids = language.ids(text)
        said = ids[0].tolist()
        for _ in range(6):
            said.append(int(language.logits(input_ids=torch.tensor([said[-16:]]))[0, -1].argmax()))
        tokenizer = Tokenizer.from_file(str(language.bundle.path(TOKENIZER)))
        (row,) = language.ask(text=[text], tokens=6)
        assert row["continuation"] == tokenizer.decode(said)[len(tokenizer.decode(ids[0].tolist())) :]
        assert row["text"] == text


def test_perplexity_is_torchs(language: Tuned, tmp_path: Path) -> None:
    text = "the horse is in the house, the mouse"
    ids = language.ids(text)
    losses = []
    for start in range(0, ids.shape[1] - 1, 16):
        piece = ids[:, start : start + 17]
        log_p = torch.log_softmax(language.logits(input_ids=piece[:, :-1]), -1)
        losses += (-log_p[0].gather(1, piece[0, 1:, None])).flatten().tolist()
    (tmp_path / "diary.txt").write_text(text, "utf-8")
    (row,) = language.ask(data=[tmp_path / "diary.txt"], tokens=0)
    assert row == {"text": text, "perplexity": pytest.approx(float(np.exp(np.mean(losses))), rel=1e-4)}
    assert language.ask(text=["a"], tokens=0) == [{"text": "a", "perplexity": None}]


def test_words_have_torchs_tags(model_folder: Path, tmp_path: Path) -> None:
    make = partial(token_classifier, model_folder, TAGS, 8)
    tagging = Tuned(export_bundle(make, ExportOptions(heads=2, rank=4), tmp_path / "bundle", "bert"), tmp_path)
    words = ["the", "old", "apple", "near", "one", "hammer", "and", "a", "horse"]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"tokens": words}) + "\n", "utf-8")
    short, row = tagging.ask(text=["a plum"], data=[tmp_path / "rows.jsonl"])
    best = torch.softmax(tagging.logits(input_ids=tagging.ids(words[:6]))[0, 1:7], -1).max(-1)
    assert row["tokens"] == words
    assert row["tags"] == [TAGS[tag] for tag in best.indices.tolist()] + [None] * 3  # the longest sequence is six words
    assert row["probabilities"][:6] == pytest.approx(best.values.tolist(), abs=1e-4)
    assert short["tokens"] == ["a", "plum"]
    assert None not in short["tags"]


def test_windows_of_a_module_of_ones_own_have_torchs_probabilities(window_bundle: Bundle, tmp_path: Path) -> None:
    windows = Tuned(window_bundle, tmp_path)
    x, _ = motion(5, 3)
    np.savez(tmp_path / "unlabelled.npz", x=x)
    np.savez(tmp_path / "strange.npz", x=x, labels=["unknown here"] * 5)
    expected = windows.logits(x=torch.from_numpy(x))
    for name in ("unlabelled.npz", "strange.npz"):
        for row, logits in zip(windows.ask(data=[tmp_path / name]), expected, strict=True):
            assert_probabilities(row["probabilities"], NAMES, logits)
    assert row["example"] == f"{tmp_path / 'strange.npz'}, example 4"


def test_values_of_a_module_of_ones_own_are_torchs(value_bundle: Bundle, tmp_path: Path) -> None:
    values = Tuned(value_bundle, tmp_path)
    x, _ = motion(3, 3)
    np.savez(tmp_path / "windows.npz", x=x)
    said = [row["values"] for row in values.ask(data=[tmp_path / "windows.npz"])]
    np.testing.assert_allclose(said, values.logits(x=torch.from_numpy(x)), atol=1e-4)


def test_steps_that_a_dataset_reads_have_torchs_tags(tagger_bundle: Bundle, tmp_path: Path) -> None:
    tagger, walks = Tuned(tagger_bundle, tmp_path), Walks.of_seed(1)
    said = tagger.ask(data=[write_seed(tmp_path / "walks")], dataset="tests.walks:Walks")
    assert len({len(row["tags"]) for row in said}) > 3  # so that some were padded
    for row, walk in zip(said, map(walks.__getitem__, range(len(walks))), strict=True):
        steps, present = torch.from_numpy(walk["x"]).float(), torch.from_numpy(walk["present"])
        best = torch.softmax(tagger.logits(x=steps[None], present=present[None])[0], -1).max(-1)
        assert row["tags"] == [str(tag) for tag in best.indices.tolist()]
        assert row["probabilities"] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_the_formats_tell_the_same(texts: Tuned) -> None:
    def shown(kind: str) -> str:
        options = [
            "--bundle",
            str(texts.bundle.folder),
            "--text",
            "a crow",
            "--text",
            "the saw\x1b[2J",
            "--format",
            kind,
        ]
        done = CliRunner().invoke(app, ["predict", str(texts.adapter), *options])
        assert done.exit_code == 0, done.output
        return done.stdout

    rows = json.loads(shown("json"))
    assert rows == [json.loads(line) for line in shown("jsonl").splitlines()]
    lines = shown("text").splitlines()
    assert [line.split()[0] for line in lines] == [row["label"] for row in rows]
    assert lines[0].endswith("a crow")
    assert "\x1b" not in lines[1]


def without_following(bundle: Bundle, folder: Path) -> Bundle:
    """The bundle as an older version exported it."""
    shutil.copytree(bundle.folder, folder, ignore=shutil.ignore_patterns(SOURCE))
    graph = onnx.load(folder / EVAL, load_external_data=False)
    (output,) = (value for value in graph.graph.output if value.name == FOLLOWING)
    graph.graph.output.remove(output)
    onnx.save(graph, folder / EVAL)
    files = {**bundle.manifest.files, EVAL: describe_file(folder / EVAL)}
    (folder / MANIFEST).write_text(replace(bundle.manifest, files=files).to_json(), "utf-8")
    return open_bundle(folder)


def test_an_older_language_bundle_gives_perplexity_and_a_sentence(language: Tuned, tmp_path: Path) -> None:
    older = {"bundle": without_following(language.bundle, tmp_path / "older").folder, "text": ["a crow"]}
    assert language.ask(**older, tokens=0) == language.ask(text=["a crow"], tokens=0)
    with pytest.raises(BundleError, match="export the bundle again, or ask for perplexity alone with --tokens 0"):
        language.ask(**older)


def test_what_can_not_be_asked_gets_a_sentence(texts: Tuned, pictures: Tuned, language: Tuned, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.png").write_text("no image")
    (tmp_path / "rows.jsonl").write_text('{"texts": "a"}\n')
    cases: list[tuple[Tuned, type[RavanError], str, dict[str, object]]] = [
        (texts, SettingsError, "give --text or --data", {}),
        (texts, SettingsError, "an empty text says nothing", {"text": [" "]}),
        (texts, BundleError, "trained with another bundle", {"text": ["a"], "bundle": language.bundle.folder}),
        (texts, BundleError, "is no training bundle", {"text": ["a"], "bundle": tmp_path}),
        (texts, BundleError, "has no bundle", {"text": ["a"], "bundle": None, "home": tmp_path}),
        (texts, DataError, r"rows.jsonl, line 1: no text", {"data": [tmp_path / "rows.jsonl"]}),
        (texts, DataError, "absent.txt can't be read", {"data": [tmp_path / "absent.txt"]}),
        (pictures, SettingsError, "model sees images", {"text": ["a"]}),
        (texts, SettingsError, "sees what --dataset reads", {"text": ["a"], "dataset": "tests.walks:Walks"}),
        (language, BundleError, "no logits of whole examples", {"data": [tmp_path], "dataset": f"{__name__}:Tokens"}),
        (pictures, NoExamples, "no usable image", {"data": [tmp_path / "empty"]}),
        (pictures, DataError, "notes.png: no image", {"data": [tmp_path / "notes.png"]}),
    ]
    for asked, kind, sentence, given in cases:
        with pytest.raises(kind, match=sentence):
            asked.ask(**given)

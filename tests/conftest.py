"""Shared fixtures: a tiny real BERT with its tokenizer, tiny ViTs, and the bundles made from them, once a session."""

import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import structlog
import torch
from hypothesis import settings
from transformers import BertConfig, BertModel
from typer.testing import CliRunner

from export.bundle import ExportOptions, export_bundle
from export.causal_lm import causal_lm
from export.cli import app as export_app
from export.custom import custom_model
from export.image_classifier import image_classifier
from export.recipe import Recipe
from export.text_classifier import text_classifier
from ravan.bundle import Bundle, open_bundle
from ravan.spec import AdapterSpec, LayerSpec, TensorSpec
from tests.databases import database, postgres  # noqa: F401 - fixtures
from tests.decoders import write_llama
from tests.families.words import SPECIAL, word_tokenizer
from tests.images import SHAPES, write_vit
from tests.seq2seq import teach, write_t5
from tests.shared import once

settings.register_profile("ravan", deadline=None)  # a busy machine is no failure
settings.load_profile("ravan")
ROOT = Path(__file__).resolve().parent.parent
LABELS = ("fruit", "tool", "animal")
MAX_LENGTH = 16
WORDS = {
    "fruit": ["apple", "pear", "plum", "cherry", "grape", "melon"],
    "tool": ["hammer", "saw", "drill", "wrench", "chisel", "pliers"],
    "animal": ["horse", "crow", "trout", "beetle", "otter", "lynx"],
}
FILLERS = ["the", "a", "old", "new", "small", "big", "one", "two", "near", "far"]
VOCABULARY = [*FILLERS, *(word for group in WORDS.values() for word in group)]


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--families-report FOLDER``: where model families leave README's rows; ``--machine NAME``: a binary's."""
    parser.addoption("--families-report", type=Path, default=None, help="Folder for the families' figures.")
    parser.addoption("--machine", default=platform.machine(), help="Whose binary tests/binary tries.")


@pytest.fixture(autouse=True)
def fresh_logs() -> Iterator[None]:
    """A command run inside a test sends logs to that test's stderr, which is closed when the next one begins."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def spec() -> AdapterSpec:
    """Two small layers, three heads, one saved tensor."""
    return AdapterSpec(
        layers=(LayerSpec("encoder.0.query", 8, 8), LayerSpec("encoder.0.value", 8, 12)),
        heads=3,
        rank=2,
        seed=7,
        saved=(TensorSpec("classifier.weight", (2, 5)), TensorSpec("classifier.bias", (2,))),
    )


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer BERT of width 32 with a word tokenizer, as transformers saves it."""
    return once(tmp_path_factory, "tiny-bert", _write_bert)


@pytest.fixture(scope="session")
def shallow_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with one layer, which is exported sooner."""
    return once(tmp_path_factory, "shallow-bert", partial(_write_bert, layers=1))


def _write_bert(folder: Path, layers: int = 2) -> None:
    words = [*SPECIAL, *VOCABULARY]
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        initializer_range=0.2,  # wide enough that so small a model tells words apart
    )
    torch.manual_seed(0)
    model = BertModel(config)
    with torch.no_grad():  # words of a kind are alike, as in a pretrained model
        for group in WORDS.values():
            alike = model.embeddings.word_embeddings.weight[[words.index(word) for word in group]]
            kind = torch.randn(32)
            for word, own in zip(group, alike, strict=True):
                model.embeddings.word_embeddings.weight[words.index(word)] = kind + own
    model.save_pretrained(folder)
    word_tokenizer(VOCABULARY).save_pretrained(folder)


def exported(
    folders: pytest.TempPathFactory, name: str, recipe: Callable[[], Recipe], options: ExportOptions
) -> Bundle:
    """A bundle that all tests share, so read only."""
    folder = once(folders, f"{name}-bundle", lambda made: export_bundle(recipe, options, made / "bundle", name))
    return open_bundle(folder / "bundle")


@pytest.fixture(scope="session")
def bundle_folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model exported; shared by all tests, so read only."""
    recipe = partial(text_classifier, model_folder, LABELS, MAX_LENGTH)
    return exported(tmp_path_factory, "model", recipe, ExportOptions(rank=4)).folder


@pytest.fixture(scope="session")
def top_bundle(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny model with heads in its upper layer alone, and so a frozen prefix."""
    recipe, options = partial(text_classifier, model_folder, LABELS, MAX_LENGTH), ExportOptions(rank=4, top_layers=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.quantize.SMALLEST", 32 * 32)  # the tiny model's layers count as products worth keeping
        return exported(tmp_path_factory, "top", recipe, options)


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with grouped keys and tied embeddings, and a tokenizer of single characters."""
    return once(tmp_path_factory, "tiny-llama", write_llama)


@pytest.fixture(scope="session")
def lm_bundle(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny Llama exported for next-token prediction."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.quantize.SMALLEST", 32 * 32)
        options = ExportOptions(heads=2, rank=4)
        return exported(tmp_path_factory, "llama", partial(causal_lm, llama_folder, 16), options)


@pytest.fixture(scope="session")
def t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny T5 that writes the telling word of a sentence or a label, and does not know which label."""
    return once(tmp_path_factory, "tiny-t5", _write_t5)


def _write_t5(folder: Path) -> None:
    write_t5(folder, VOCABULARY, LABELS, alike=[*WORDS.values()])
    texts = [row["text"] for row in sentences(48, 77)]
    telling = [next(word for word in text.split() if word not in FILLERS) for text in texts]
    teach(folder, texts, [[x for label in LABELS for x in (word, label)] for word in telling], steps=60)


@pytest.fixture(scope="session")
def label_bundle(t5_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny T5 exported to write the names of labels, by the command line."""
    return open_bundle(once(tmp_path_factory, "t5-labels", partial(_export_labels, t5_folder)) / "bundle")


def _export_labels(t5_folder: Path, folder: Path) -> None:
    (folder / "labels.txt").write_text("\n".join(LABELS))
    options = {"labels": folder / "labels.txt", "max-length": 16, "heads": 2, "rank": 8, "out": folder / "bundle"}
    arguments = [str(x) for name, value in options.items() for x in (f"--{name}", value)]
    done = CliRunner().invoke(export_app, ["seq2seq", str(t5_folder), *arguments])
    assert done.exit_code == 0, done.output


@pytest.fixture(scope="session")
def t5_bundle(label_bundle: Bundle) -> Bundle:
    """The same for any targets, which changes nothing in the graphs."""
    return Bundle(label_bundle.folder, replace(label_bundle.manifest, labels=()))


@pytest.fixture(scope="session")
def bundle(bundle_folder: Path) -> Bundle:
    """The tiny bundle, checked."""
    return open_bundle(bundle_folder)


@pytest.fixture(scope="session")
def image_models(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A tiny ViT for images of 1 and one for images of 3 channels."""
    return {n: once(tmp_path_factory, f"vit-{n}", partial(write_vit, channels=n)) for n in (1, 3)}


@pytest.fixture(scope="session")
def image_bundles(image_models: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[int, Bundle]:
    """Both exported; shared by all tests, so read only."""
    options = ExportOptions(heads=2, rank=4)
    return {
        channels: exported(tmp_path_factory, f"images-{channels}", partial(image_classifier, model, SHAPES), options)
        for channels, model in image_models.items()
    }


def _custom_bundle(factory: str, folders: pytest.TempPathFactory) -> Bundle:
    recipe = partial(custom_model, f"tests.custom_models:{factory}")
    return exported(folders, factory, recipe, ExportOptions(heads=2, rank=3))


@pytest.fixture(scope="session")
def window_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A torch module that classifies windows."""
    return _custom_bundle("windows", tmp_path_factory)


@pytest.fixture(scope="session")
def value_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A torch module that tells two values of a window."""
    return _custom_bundle("regression", tmp_path_factory)


@pytest.fixture(scope="session")
def tagger_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A torch module that tags sequences of any length."""
    return _custom_bundle("tagger", tmp_path_factory)


def sentences(count: int, seed: int, labels: tuple[str, ...] = LABELS) -> list[dict[str, str]]:
    """Labelled sentences that can be learned: one telling word among fillers."""
    generator = torch.Generator().manual_seed(seed)

    def pick(values: list[str]) -> str:
        return values[int(torch.randint(len(values), (1,), generator=generator))]

    rows = []
    for i in range(count):
        label = labels[i % len(labels)]
        words = [pick(FILLERS) for _ in range(1 + i % 5)] + [pick(WORDS[label])] + [pick(FILLERS)]
        rows.append({"text": " ".join(words), "label": label})
    return rows


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    """Rows as JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path

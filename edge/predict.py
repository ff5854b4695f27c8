"""What a bundle's model says about new texts, words, images or other examples, and how a language model writes on."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edge.answers import Answer, Computed, Continued, Labelled, Tagged
from edge.finding import find_bundle
from edge.settings import PredictSettings
from ravan.bundle import Bundle, Manifest, Task
from ravan.errors import BundleError, NoExamples, SettingsError
from ravan.inputs import Loss
from ravan.runtime.adapter import read_adapter
from ravan.runtime.dataset import DatasetExamples, Unlabelled, find_dataset
from ravan.runtime.images import normalized, unlabelled
from ravan.runtime.language import Documents, Piece, read_plain
from ravan.runtime.names import IGNORED, LABELS
from ravan.runtime.npz import NpzDataset
from ravan.runtime.predictor import Logits, Predictor
from ravan.runtime.rows import read_rows, text_of
from ravan.runtime.session import RuntimeOptions
from ravan.runtime.tags import Words, words_of
from ravan.runtime.text import encode, padded, tokenizer_of

T = TypeVar("T")


def predict(settings: PredictSettings) -> Iterator[Answer]:
    """An answer for every text, image or other example in their order, as they are computed.

    Raises:
        SettingsError: nothing to ask about, or texts for a model of something else.
        BundleError: no such bundle or adapter, they are not of one run, or the task has no predictions.
        DataError: what is asked about can't be read.
    """
    bundle = find_bundle(settings.adapter, settings.bundle, settings.home)
    manifest = bundle.manifest
    adapter = read_adapter(settings.adapter, manifest.adapter)
    ask = _examples if settings.dataset else _ASK.get(manifest.task)
    if ask is None:
        raise BundleError(f"ravan-edge makes no predictions for {manifest.task}: merge the adapter and use the model.")
    if not (settings.data or settings.text):
        raise SettingsError("There is nothing to ask about: give --text or --data.")
    if settings.text and (settings.dataset or manifest.image or manifest.custom):
        sees = "images" if manifest.image else "no texts" if manifest.custom else "what --dataset reads"
        raise SettingsError(f"--text: this bundle's model sees {sees}: give its inputs with --data.")
    model = Predictor(bundle, adapter.trainables(manifest.adapter), RuntimeOptions(settings.threads))
    return ask(bundle, model, settings)


def _classify_texts(bundle: Bundle, model: Predictor, settings: PredictSettings) -> Iterator[Answer]:
    tokenizer, manifest = tokenizer_of(bundle), bundle.manifest
    for texts in _some(_texts(settings, str.splitlines), _rows(manifest)):
        logits = model.logits(padded(encode(tokenizer, texts), manifest))
        for text, row in zip(texts, _probabilities(logits), strict=True):
            yield Labelled("text", text, _likeliest(row, manifest.labels, settings.top))


def _classify_images(bundle: Bundle, model: Predictor, settings: PredictSettings) -> Iterator[Answer]:
    image, labels, answered = bundle.manifest.image, bundle.manifest.labels, 0
    assert image is not None
    found = (entry for path in settings.data for entry in unlabelled(path, image, skip_bad=settings.skip_bad))
    for some in _some(found, _rows(bundle.manifest)):
        logits = model.logits(normalized([pixels for _, pixels in some], image))
        for (where, _), row in zip(some, _probabilities(logits), strict=True):
            yield Labelled("image", where, _likeliest(row, labels, settings.top))
        answered += len(some)
    if not answered:
        raise NoExamples("There is no usable image: give image files, folders of them, or an NPZ file.")


def _tag(bundle: Bundle, model: Predictor, settings: PredictSettings) -> Iterator[Answer]:
    split, labels = Words(bundle), bundle.manifest.labels
    given = [text.split() for text in settings.text]
    for path in settings.data:
        given += read_rows(path, frozenset({"tokens"}), words_of, skip_bad=settings.skip_bad).values
    for texts in _some(given, _rows(bundle.manifest)):
        encoded = [split(words) for words in texts]
        logits = model.logits(padded([ids for ids, _ in encoded], bundle.manifest))
        for words, (_, first), rows in zip(texts, encoded, _probabilities(logits), strict=True):
            best = {word: int(rows[place].argmax()) for word, place in first.items()}
            tags = [labels[best[word]] if word in best else None for word in range(len(words))]
            sure = [float(rows[first[word], best[word]]) if word in best else None for word in range(len(words))]
            yield Tagged(words, tags, sure)


def _write_on(bundle: Bundle, model: Predictor, settings: PredictSettings) -> Iterator[Answer]:
    manifest, tokenizer = bundle.manifest, tokenizer_of(bundle, cut=False)
    for text in _texts(settings, lambda whole: [whole]):
        given: list[int] = tokenizer.encode(text).ids
        continuation = None
        if settings.tokens:
            continuation = _difference(tokenizer, given, _continued(model, manifest, given, settings.tokens))
        yield Continued(text, continuation, _perplexity(model, manifest, given))


def _perplexity(model: Predictor, manifest: Manifest, ids: list[int]) -> float | None:
    """In pieces of the longest sequence, each but the first behind the last token of the one before."""
    longest, tokens = manifest.max_length, np.array(ids, np.int32)
    pieces = [Piece(tokens[i : i + longest + 1]) for i in range(0, len(tokens) - 1, longest)]
    documents = Documents(manifest, pieces)
    return model.perplexity(documents.batch([i]) for i in range(len(pieces))) if pieces else None


def _continued(model: Predictor, manifest: Manifest, ids: list[int], tokens: int) -> list[int]:
    """The ids and up to so many more, each the likeliest behind the longest sequence before it, until the end token."""
    assert manifest.language is not None
    said = list(ids)
    for _ in range(tokens):
        window = np.array(said[-manifest.max_length :], np.int32)
        token = int(model.following(padded([window], manifest), [len(window) - 1])[0].argmax())
        if token == manifest.language.end_id:
            break
        said.append(token)
    return said


def _difference(tokenizer: Tokenizer, given: list[int], said: list[int]) -> str:
    """What was said beyond what was given; of both together, because a token alone may lose the space before it."""
    before: str = tokenizer.decode(given)
    after: str = tokenizer.decode(said)
    if after.startswith(before):
        return after[len(before) :]
    alone: str = tokenizer.decode(said[len(given) :])
    return alone


def _examples(bundle: Bundle, model: Predictor, settings: PredictSettings) -> Iterator[Answer]:
    make = find_dataset(settings.dataset) if settings.dataset else partial(NpzDataset.read, labelled=False)

    def unlabelled(path: Path, bundle: Bundle) -> Unlabelled:
        return Unlabelled(make(path, bundle), bundle.manifest)

    for path in settings.data:
        examples = DatasetExamples.read(bundle, path, unlabelled, skip_bad=settings.skip_bad)
        for some in _some(range(len(examples)), _rows(bundle.manifest)):
            batch = examples.batch(some)
            for i, labels, logits in zip(some, batch[LABELS], model.logits(batch), strict=True):
                about = f"{path}, example {examples.indices[i]}"
                yield _computed(bundle.manifest, about, _unpadded(logits, labels), settings.top)


def _unpadded(logits: Logits, labels: NDArray[Any]) -> Logits:
    """Of one example's logits or values those at places that its labels [...] have."""
    real = tuple(slice(places.max() + 1) for places in np.nonzero(labels != IGNORED)) if labels.ndim else ()
    kept: Logits = logits[real]
    return kept


def _computed(manifest: Manifest, about: str, logits: Logits, top: int) -> Answer:
    """The answer to one example's values [...], logits [classes], or logits of each token [..., classes]."""
    if manifest.custom and manifest.custom.loss is Loss.MEAN_SQUARED_ERROR:
        return Computed(about, {"values": logits.tolist()})
    probabilities = _probabilities(logits)
    if logits.ndim == 1:
        return Labelled("example", about, _likeliest(probabilities, manifest.labels, top))
    tags = np.array(manifest.labels)[probabilities.argmax(-1)]
    return Computed(about, {"tags": tags.tolist(), "probabilities": probabilities.max(-1).tolist()})


_ASK: Mapping[Task, Callable[[Bundle, Predictor, PredictSettings], Iterator[Answer]]] = {
    Task.TEXT_CLASSIFICATION: _classify_texts,
    Task.TOKEN_CLASSIFICATION: _tag,
    Task.CAUSAL_LM: _write_on,
    Task.IMAGE_CLASSIFICATION: _classify_images,
    Task.CUSTOM: _examples,
}


def _texts(settings: PredictSettings, of_file: Callable[[str], Iterable[str]]) -> list[str]:
    """The texts given, those ``of_file`` finds in a text file, and those of rows with ``text`` or ``prompt``."""
    texts = list(settings.text)
    if not all(text.strip() for text in texts):
        raise SettingsError("--text: an empty text says nothing: give some words.")
    for path in settings.data:
        if path.suffix.lower() == ".txt":
            texts += filter(str.strip, of_file(read_plain(path)))
        else:
            texts += _texts_of_rows(path, skip_bad=settings.skip_bad)
    return texts


def _texts_of_rows(path: Path, *, skip_bad: bool) -> tuple[str, ...]:
    text, prompt = frozenset({"text"}), frozenset({"prompt"})

    def parse(row: Mapping[str, object]) -> str:
        return text_of(row, "prompt" if "prompt" in row else "text")

    return read_rows(path, text, parse, skip_bad=skip_bad, or_columns=prompt).values


def _rows(manifest: Manifest) -> int:
    """How many texts or images are computed at a time."""
    return max(manifest.micro_batch // manifest.row_tokens(manifest.max_length), 1)


def _some(values: Iterable[T], count: int) -> Iterator[list[T]]:
    """Lists of ``count`` in order, the last one shorter."""
    left = iter(values)
    while some := list(islice(left, count)):
        yield some


def _probabilities(logits: Logits) -> Logits:
    """Softmax over the classes."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: Logits = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities


def _likeliest(probabilities: Logits, labels: tuple[str, ...], top: int) -> dict[str, float]:
    best = np.argsort(-probabilities, kind="stable")[:top].tolist()
    return {labels[i]: float(probabilities[i]) for i in best}

"""Sources and targets, JSONL or CSV, as batches for sequence to sequence; a target may be the name of a label.

The decoder's input is the target one place later, behind the start token. The device shifts it, so that a graph takes
it like any other input, and model.onnx of a merged model is called in the same way.

With labels a model classifies by writing the label's name, as T5 does in the paper. What it prefers is what greedy
decoding writes, and that is the label exactly if every token of it, the end included, is the most likely one behind
those before it. One pass over the target sees just that, so an example counts as correct if all its tokens are. To
choose the label of least loss instead would take a pass for every label and a rule for labels of different lengths, and
would credit the model with answers that it does not give when it is asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ravan.bundle import Bundle, Manifest
from ravan.runtime.names import DECODER_INPUT_IDS, LABELS
from ravan.runtime.rows import label_of, read_rows, text_of
from ravan.runtime.session import Batch
from ravan.runtime.text import Tokens, encode, padded, padded_labels, padded_length, random_tokens, tokenizer_of
from ravan.writing import Seq2SeqSettings

PAIRED, CLASSIFIED = frozenset({"source", "target"}), frozenset({"text", "label"})


@dataclass(frozen=True)
class Pairs:
    """Sources and targets as token ids; ``longest_target`` is that of all of them, padded."""

    manifest: Manifest
    sources: Sequence[Tokens]
    targets: Sequence[Tokens]
    longest_target: int
    skipped: int = 0

    @classmethod
    def read(cls, bundle: Bundle, path: Path, *, skip_bad: bool = False) -> "Pairs":
        """Reads ``source`` and ``target``, or ``text`` and ``label`` if the bundle has labels.

        Raises:
            DataError: the file can't be read, or a line holds no example and ``skip_bad`` is off.
            NoExamples: no usable example is left.
        """
        manifest, settings = bundle.manifest, _settings(bundle.manifest)
        index = {name: i for i, name in enumerate(manifest.labels)}

        def parse(row: Mapping[str, object]) -> tuple[str, str]:
            if index:
                return settings.prefix + text_of(row), manifest.labels[label_of(row, index)]
            return settings.prefix + text_of(row, "source"), text_of(row, "target")

        rows = read_rows(path, CLASSIFIED if index else PAIRED, parse, skip_bad=skip_bad)
        sources, targets = zip(*rows.values, strict=True)
        ids = encode_targets(tokenizer_of(bundle, cut=False), targets, settings.end_id, settings.max_target)
        longest = padded_length(max(map(len, ids)), settings.max_target)
        return cls(manifest, encode(tokenizer_of(bundle), sources), ids, longest, rows.skipped)

    def __len__(self) -> int:
        return len(self.sources)

    def tokens(self, index: int) -> int:
        """As ``Examples.tokens``; the target counts as the longest of all.

        Of two examples of a batch one may have the longer source and the other the longer target.
        """
        return padded_length(len(self.sources[index]), self.manifest.max_length) + self.longest_target

    def batch(self, indices: Sequence[int]) -> Batch:
        """As ``Examples.batch``; decoder input and labels [batch, target], padding counts for nothing."""
        inputs = padded([self.sources[i] for i in indices], self.manifest)
        return {**inputs, **_shifted([self.targets[i] for i in indices], self.manifest)}


def encode_targets(tokenizer: Tokenizer, texts: Sequence[str], end_id: int, longest: int | None = None) -> list[Tokens]:
    """Token ids of each target with one end token behind, cut to the ``longest``."""
    bodies = [ids[:-1] if len(ids) and ids[-1] == end_id else ids for ids in encode(tokenizer, texts)]
    return [np.append(body[: longest and longest - 1], np.int32(end_id)) for body in bodies]


def random_pairs(
    bundle: Bundle, rows: int, length: int, generator: np.random.Generator
) -> Mapping[str, NDArray[np.int64]]:
    """Random sources of ``length`` tokens and targets of the longest, without padding."""
    settings = _settings(bundle.manifest)
    targets = generator.integers(0, settings.vocabulary, (rows, settings.max_target), np.int32)
    return {**random_tokens(bundle, rows, length, generator), **_shifted(list(targets), bundle.manifest)}


def _shifted(targets: Sequence[Tokens], manifest: Manifest) -> dict[str, NDArray[np.int64]]:
    """Targets as labels, and one place later as the decoder's input; both padded to the longest, rounded up."""
    settings = _settings(manifest)
    length = padded_length(max(map(len, targets)), settings.max_target)
    shifted = np.full((len(targets), length), manifest.pad_id, np.int64)
    shifted[:, 0] = settings.start_id
    for row, target in zip(shifted, targets, strict=True):
        row[1 : len(target)] = target[:-1]
    return {DECODER_INPUT_IDS: shifted, LABELS: padded_labels(targets, length)}


def _settings(manifest: Manifest) -> Seq2SeqSettings:
    assert manifest.seq2seq is not None
    return manifest.seq2seq

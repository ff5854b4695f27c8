"""The training bundle: a folder a device downloads once, and the manifest that vouches for every file in it.

    train.onnx      the training step: batch and trainables in; loss, weight and gradients out
    train-top-N.onnx  optional: the same step with gradients for the last N adapted layers alone, for small budgets
    eval.onnx       loss, weight and correct predictions from the same inputs
    prefix.onnx     only with adapters in the top layers alone: what of the model no trainable changes, batch in,
                    hidden states out, which train.onnx then takes instead of the raw input
    weights.bin     frozen weights and bases, shared by all graphs
    tokenizer.json  turns text into token ids; only in bundles for text
    initial.ravan   the adapter of round 0, as an update that carries every head
    ort/            optional: the official ONNX Runtime training artifacts, the same float model a second time; only
                    devices that train with onnxruntime-training fetch them
    manifest.json   this file's ``Manifest``
    source/         the model as it was loaded; stays with the operator and is used by merge

The bundle's id is the sha256 of its manifest's canonical JSON, so that it fixes every file.
"""

import hashlib
import json
import math
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from ravan.bundle_files import MANIFEST, OPTIONAL, FileEntry, check_file, read_entries
from ravan.errors import BundleError, SpecError
from ravan.inputs import CustomSettings, Metric, TensorInput
from ravan.needs import UNSAID, Needs, require_schema
from ravan.spec import AdapterSpec, canonical_json
from ravan.writing import LanguageSettings, Seq2SeqSettings

SCHEMA = 4
READABLE = (1, 2, 3, 4)
READ_SINCE = "0.1.0"  # the first ravan-fl that reads this schema
TRAIN = "train.onnx"
EVAL = "eval.onnx"
PREFIX = "prefix.onnx"
WEIGHTS = "weights.bin"
TOKENIZER = "tokenizer.json"
INITIAL = "initial.ravan"
SOURCE = "source"
MICRO_BATCH = 1024  # tokens; more makes a step no faster
LARGEST_SIDE = 4096  # pixels of an image, and its tokens


class Task(StrEnum):
    """What a bundle's model is trained to do, and so what its examples are."""

    TEXT_CLASSIFICATION = "text-classification"
    TOKEN_CLASSIFICATION = "token-classification"  # noqa: S105 no password
    CAUSAL_LM = "causal-lm"
    IMAGE_CLASSIFICATION = "image-classification"
    SEQ2SEQ = "seq2seq"
    CUSTOM = "custom"

    @property
    def per_token(self) -> bool:
        """Whether labels belong to tokens, [batch, length], rather than to examples, [batch]."""
        return self in (Task.TOKEN_CLASSIFICATION, Task.CAUSAL_LM, Task.SEQ2SEQ)

    @property
    def device_files(self) -> tuple[str, ...]:
        """What every bundle of this task holds for devices."""
        always = (TRAIN, EVAL, WEIGHTS, INITIAL)
        return always if self in (Task.IMAGE_CLASSIFICATION, Task.CUSTOM) else (*always, TOKENIZER)


class Precision(StrEnum):
    """In which numbers the frozen products run; trainables, gradients and all else are float32 in both."""

    FP32 = "fp32"
    INT8 = "int8"


@dataclass(frozen=True)
class ImageSettings:
    """How an image becomes an input: resized to height x width, divided by 255, then (x - mean) / std per channel.

    Attributes:
        tokens: patches and class token of one image, what it counts for beside a text's tokens.
    """

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    tokens: int

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return len(self.mean)


@dataclass(frozen=True)
class Manifest:
    """What a bundle holds and promises.

    Attributes:
        task: what the model is trained to do.
        adapter: the adapter spec.
        labels: label names in the order of the logits; empty for regression, and for models that write text unless it
            is to be one of these, see ``by_example``.
        max_length: longest sequence, tokens; 0 for images and custom models.
        pad_id: token id that fills short sequences.
        precision: of the frozen products.
        files: what a device downloads, by path inside the bundle.
        source_files: what stays with the operator, for merge.
        model: name of the model it was made from.
        versions: of the software that made it.
        verification: largest differences seen against torch, and the tolerance.
        language: only for language models.
        image: only for images.
        seq2seq: only for sequence to sequence.
        custom: only for models of a user's own.
        inputs: of the graphs, the trainables left out and the labels last.
        needs: the software that runs it.
        micro_batch: tokens that a device computes at a time unless told otherwise.
        memory: bytes that a training process takes at its largest, by the name of the preset it was measured with;
            weights that stay mapped from their file, which the system can drop at any time, left out.
        schema: of the manifest; kept, so that the id of an older bundle stays what it was.
    """

    task: Task
    adapter: AdapterSpec
    labels: tuple[str, ...]
    max_length: int
    pad_id: int
    precision: Precision
    files: Mapping[str, FileEntry]
    source_files: Mapping[str, FileEntry] = field(default_factory=dict)
    model: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    verification: Mapping[str, float] = field(default_factory=dict)
    language: LanguageSettings | None = None
    image: ImageSettings | None = None
    seq2seq: Seq2SeqSettings | None = None
    custom: CustomSettings | None = None
    inputs: tuple[TensorInput, ...] = ()
    needs: Needs = UNSAID
    micro_batch: int = MICRO_BATCH
    memory: Mapping[str, int] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def classes(self) -> int:
        """How many logits the model gives: labels, or token ids."""
        writes = self.language or self.seq2seq
        return writes.vocabulary if writes else len(self.labels)

    @property
    def by_example(self) -> bool:
        """Whether tokens spell an example's label, so that a prediction is right if all of its tokens are."""
        return self.seq2seq is not None and bool(self.labels)

    def row_tokens(self, length: int) -> int:
        """What one row of a batch counts for: an image's tokens, or the ``length`` of a sequence and its target's."""
        if self.custom:
            return math.prod(self.custom.longest.values())
        if self.image:
            return self.image.tokens
        return length + self.seq2seq.max_target if self.seq2seq else length

    @property
    def longest(self) -> Mapping[str, int]:
        """The largest size of each dimension with a name, "batch" left out."""
        if self.custom:
            return self.custom.longest
        targets = {"target": self.seq2seq.max_target} if self.seq2seq else {}
        return {"length": self.max_length, **targets}

    @property
    def metric(self) -> Metric:
        """By what rounds are compared unless the operator says otherwise."""
        if self.custom:
            return self.custom.metric
        return Metric.ACCURACY if self.labels else Metric.PERPLEXITY

    @property
    def bundle_id(self) -> str:
        """sha256 of the canonical JSON, hex."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def download_size(self) -> int:
        """Bytes that every device downloads, the manifest left out."""
        return sum(entry.size for name, entry in self.files.items() if name not in OPTIONAL)

    def to_json(self) -> str:
        """Canonical JSON."""
        value = asdict(self)
        for name, since in _SINCE.items():
            if self.schema < since:
                del value[name]
        return canonical_json(value)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Manifest":
        """Reads what ``to_json`` wrote.

        Raises:
            BundleError: not a manifest, of a newer schema, or with a path that leaves the bundle.
        """
        try:
            value = json.loads(text)
            require_schema(value, READABLE)
            manifest = cls(
                task=Task(value["task"]),
                adapter=AdapterSpec.from_dict(value["adapter"]),
                labels=tuple(map(str, value["labels"])),
                max_length=int(value["max_length"]),
                pad_id=int(value["pad_id"]),
                precision=Precision(value["precision"]),
                files=read_entries(value["files"]),
                source_files=read_entries(value["source_files"]),
                model=str(value["model"]),
                versions={str(k): str(v) for k, v in value["versions"].items()},
                verification={str(k): float(v) for k, v in value["verification"].items()},
                language=LanguageSettings.from_dict(value["language"]) if value.get("language") else None,
                image=_image(value.get("image")),
                seq2seq=Seq2SeqSettings.from_dict(value["seq2seq"]) if value.get("seq2seq") else None,
                custom=CustomSettings.from_dict(value["custom"]) if value.get("custom") else None,
                inputs=tuple(TensorInput.from_dict(entry) for entry in value.get("inputs", ())),
                needs=Needs.from_dict(value["needs"]) if "needs" in value else UNSAID,
                micro_batch=int(value.get("micro_batch", MICRO_BATCH)),
                memory={str(k): int(v) for k, v in value.get("memory", {}).items()},
                schema=int(value["schema"]),
            )
            manifest.to_json()  # refuses numbers that are none
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError, SpecError) as error:
            raise BundleError(f"{MANIFEST} can't be read ({error}): fetch or export the bundle again.") from error
        _require_settings(manifest)
        return manifest


_SINCE = {"language": 2, "image": 2, "micro_batch": 2, "memory": 2, "custom": 3, "inputs": 3, "seq2seq": 4, "needs": 4}
"""The schema that a field came with: manifests of an older one keep their ids."""


def _image(value: Mapping[str, Any] | None) -> ImageSettings | None:
    if value is None:
        return None
    mean, std = (tuple(map(float, value[name])) for name in ("mean", "std"))
    if len(mean) not in (1, 3) or len(std) != len(mean) or not min(std) > 0:
        raise BundleError("The bundle's images have neither 1 nor 3 channels: export the bundle again.")
    sizes = [int(value[name]) for name in ("height", "width", "tokens")]
    if not 0 < min(sizes) <= max(sizes) <= LARGEST_SIDE:
        raise BundleError(f"The bundle's images are not between 1 and {LARGEST_SIDE} wide: export the bundle again.")
    return ImageSettings(sizes[0], sizes[1], mean, std, sizes[2])


def _require_settings(manifest: Manifest) -> None:
    """Raises BundleError if the settings of the task are missing."""
    needed: dict[Task, object] = {
        Task.CAUSAL_LM: manifest.language,
        Task.IMAGE_CLASSIFICATION: manifest.image,
        Task.SEQ2SEQ: manifest.seq2seq,
        Task.CUSTOM: manifest.custom and manifest.inputs,
    }
    if manifest.task in needed and not needed[manifest.task]:
        raise BundleError(f"The manifest has no settings for {manifest.task}: export the bundle again.")


@dataclass(frozen=True)
class Bundle:
    """A folder whose device files match its manifest; made by ``open_bundle``."""

    folder: Path
    manifest: Manifest

    def path(self, name: str) -> Path:
        """Where a file of the bundle is."""
        return self.folder / name


def open_bundle(folder: Path, may_lack: Container[str] = ()) -> Bundle:
    """Reads a bundle's manifest and checks every device file, before anything is loaded from it.

    What the folder ``may_lack``, as a device's does artifacts it does not use, is checked if it is there.

    Raises:
        BundleError: no manifest, or a file that is missing or was changed.
    """
    try:
        text = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise BundleError(
            f"{folder} is no training bundle ({MANIFEST}: {error.strerror}): export one first."
        ) from error
    manifest = Manifest.from_json(text)
    for name in manifest.task.device_files:
        if name not in manifest.files:
            raise BundleError(f"The manifest of {folder} does not list {name}: export the bundle again.")
    for name, entry in manifest.files.items():
        if name not in may_lack or (folder / name).exists():
            check_file(folder, name, entry)
    return Bundle(folder, manifest)

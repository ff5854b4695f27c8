"""A transformers text classifier as a training bundle."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor
from transformers import PreTrainedModel

from export.adapted import split_where_cheaper
from export.architectures import Architecture, text_classifier_defaults
from export.forward import export_forward
from export.train_step import eval_graph, train_graph
from export.transformers_io import load_classifier, load_tokenizer, quiet_transformers, save
from export.verify import (
    Graphs,
    feed_of,
    int8_likeness,
    perturbed,
    require,
    require_likeness,
    run_graphs,
    verify,
)
from export.weights import save_with_shared_weights
from ravan.bundle import (
    DEVICE_FILES,
    EVAL,
    INITIAL,
    MANIFEST,
    SOURCE,
    TOKENIZER,
    TRAIN,
    Bundle,
    FileEntry,
    Manifest,
    Precision,
    describe_file,
)
from ravan.errors import ExportError
from ravan.files import new_folder
from ravan.layout import saved_view
from ravan.runtime.names import ATTENTION_MASK, INPUT_IDS
from ravan.spec import AdapterSpec, Init
from ravan.torch import inject, make_spec, read_trainables
from ravan.update import Update, encode

TASK = "text-classification"
DEFAULT_MAX_LENGTH = 128
Progress = Callable[[str], None]


@dataclass(frozen=True)
class TextClassifierOptions:
    """What to export.

    Attributes:
        model: folder or hub id of a transformers model.
        labels: label names in the order of the logits.
        heads: number of heads h.
        rank: rank r of a head; None if it follows from ``budget``.
        budget: trainable parameters in all H.
        init: how the bases are drawn.
        seed: seed of the bases and of newly created modules.
        targets: patterns of linear layers to adapt; empty for the architecture's defaults.
        saved: patterns of modules to train whole; empty for the architecture's defaults.
        max_length: longest sequence, tokens; at most what the model takes.
        precision: of the frozen products; int8 is faster and a little less exact.
        tolerance: largest accepted difference to torch, relative to each gradient's largest value.
    """

    model: str
    labels: tuple[str, ...]
    heads: int = 4
    rank: int | None = None
    budget: int | None = None
    init: Init = Init.GRAM_SCHMIDT
    seed: int = 0
    targets: tuple[str, ...] = ()
    saved: tuple[str, ...] = ()
    max_length: int = DEFAULT_MAX_LENGTH
    precision: Precision = Precision.FP32
    tolerance: float = 1e-4


def export_text_classifier(options: TextClassifierOptions, out: Path, progress: Progress = lambda _: None) -> Bundle:
    """Writes the bundle to ``out``, a folder that does not exist yet; after an error nothing is left there.

    Raises:
        ExportError: the model can't be loaded or exported, or its graphs differ from torch.
        TargetError: a pattern matches nothing.
        EnvironmentProblem: ``out`` exists.
    """
    with quiet_transformers(), new_folder(out) as folder:
        manifest = _write(options, folder, progress)
    return Bundle(out, manifest)


def _write(options: TextClassifierOptions, folder: Path, progress: Progress) -> Manifest:
    progress(f"loading {options.model}")
    model = load_classifier(options.model, options.labels, options.seed)
    longest = getattr(model.config, "max_position_embeddings", options.max_length)
    pad_id = _save_source(model, options, folder)
    defaults = Architecture(options.targets, options.saved)
    if not (options.targets and options.saved):
        defaults = text_classifier_defaults(model.config.model_type)
    spec = make_spec(
        model,
        options.targets or defaults.targets,
        heads=options.heads,
        rank=options.rank,
        budget=options.budget,
        init=options.init,
        seed=options.seed,
        saved=options.saved or defaults.saved,
    )
    inject(model, spec)
    split_where_cheaper(model, options.precision)
    progress(f"exporting {len(spec.layers)} adapted layers, {spec.heads} heads of rank {spec.rank}")
    measured = _write_graphs(model, spec, folder, options)
    start = read_trainables(model, spec)
    initial = Update.full(np.zeros(spec.H_shape, np.float32), saved_view(spec, start))
    (folder / INITIAL).write_bytes(encode(spec, initial))
    progress(f"verified: gradients within {measured['gradient']:.1e} of torch")
    manifest = Manifest(
        task=TASK,
        adapter=spec,
        labels=options.labels,
        max_length=min(options.max_length, longest),
        pad_id=pad_id,
        precision=options.precision,
        files={name: describe_file(folder / name) for name in DEVICE_FILES},
        source_files=_entries(folder, SOURCE),
        model=Path(options.model).name if Path(options.model).is_dir() else options.model,
        versions={name: version(name) for name in ("ravan-fl", "torch", "transformers", "onnx", "onnxruntime")},
        verification=measured,
    )
    (folder / MANIFEST).write_text(manifest.to_json(), "utf-8")
    return manifest


def _save_source(model: PreTrainedModel, options: TextClassifierOptions, folder: Path) -> int:
    """Saves model and tokenizer as transformers does, for merge; returns the pad token's id."""
    tokenizer = load_tokenizer(options.model)
    save(model, tokenizer, folder / SOURCE)
    if not (folder / SOURCE / TOKENIZER).is_file() or tokenizer.pad_token_id is None:
        raise ExportError(f"{options.model} needs a fast tokenizer with a pad token: convert its tokenizer first.")
    shutil.copyfile(folder / SOURCE / TOKENIZER, folder / TOKENIZER)
    return int(tokenizer.pad_token_id)


def _write_graphs(
    model: PreTrainedModel, spec: AdapterSpec, folder: Path, options: TextClassifierOptions
) -> dict[str, float]:
    """Writes both graphs with their weights; returns what was measured against torch."""
    longest = min(options.max_length, getattr(model.config, "max_position_embeddings", options.max_length))
    forward = export_forward(model, spec, example_batch(model, (3, min(17, longest))), longest)
    other = example_batch(model, (5, min(24, longest)))  # other sizes than exported: both axes must be dynamic
    labels = torch.arange(5) % len(options.labels)
    graphs = Graphs(folder / TRAIN, folder / EVAL)
    _save_graphs(forward, spec, Precision.FP32, folder)
    seen = verify(graphs, model, spec, other, labels)
    require(seen, options.tolerance)
    measured = {"loss": seen.loss, "gradient": seen.gradient, "logits": seen.logits, "tolerance": options.tolerance}
    if options.precision is Precision.INT8:
        feed = feed_of(other, labels, perturbed(spec, read_trainables(model, spec)))
        exact = run_graphs(graphs, feed)
        _save_graphs(forward, spec, Precision.INT8, folder)
        measured["int8_cosine"] = int8_likeness(exact, run_graphs(graphs, feed), spec)
        require_likeness(measured["int8_cosine"])
    return measured


def _save_graphs(forward: ir.Model, spec: AdapterSpec, precision: Precision, folder: Path) -> None:
    graphs = {TRAIN: train_graph(forward, spec, precision), EVAL: eval_graph(forward, spec, precision)}
    save_with_shared_weights(graphs, folder)


def example_batch(model: PreTrainedModel, shape: tuple[int, int]) -> dict[str, Tensor]:
    """Random token ids and a mask in which one sequence is shorter."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, int(model.config.vocab_size), shape, generator=generator)
    mask = torch.ones_like(ids)
    mask[0, shape[1] // 2 :] = 0
    return {INPUT_IDS: ids, ATTENTION_MASK: mask}


def _entries(folder: Path, sub: str) -> dict[str, FileEntry]:
    paths = sorted(p for p in (folder / sub).rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): describe_file(p) for p in paths}

"""From a recipe to a bundle on disk: inject heads, export, differentiate, verify, write."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx_ir as ir

from export.adapted import split_where_cheaper
from export.architectures import Architecture
from export.calibrate import calibrate
from export.forward import export_forward
from export.prefix import Parts, split_prefix
from export.recipe import Recipe
from export.recompute import Budget
from export.train_step import Numbers, eval_graph, prefix_graph, train_graph
from export.transformers_io import quiet_transformers
from export.verify import feed_of, int8_likeness, perturbed, require, require_likeness, run_graphs, verify
from export.weights import save_with_shared_weights
from ravan.bundle import (
    EVAL,
    INITIAL,
    MANIFEST,
    PREFIX,
    SOURCE,
    TOKENIZER,
    TRAIN,
    Bundle,
    FileEntry,
    ImageSettings,
    Manifest,
    Precision,
    describe_file,
)
from ravan.errors import ExportError
from ravan.files import new_folder
from ravan.layout import saved_view, tensors
from ravan.runtime.footprint import footprint
from ravan.spec import AdapterSpec, Init
from ravan.torch import inject, make_spec, named_trainables, read_trainables
from ravan.update import Update, encode

Progress = Callable[[str], None]
MICRO_BATCH = 1024  # tokens that a device computes at a time by default


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How to adapt a model, whatever its task.

    Attributes:
        heads: number of heads h.
        rank: rank r of a head; None if it follows from ``budget``.
        budget: trainable parameters in all H.
        init: how the bases are drawn.
        seed: seed of the bases.
        targets: patterns of linear layers to adapt; empty for the architecture's defaults.
        saved: patterns of modules to train whole; empty for the architecture's defaults.
        top_layers: adapt only so many of the topmost layers; None for all.
        precision: of the frozen products; int8 is faster and a little less exact.
        tolerance: largest accepted difference to torch, relative to each gradient's largest value.
        activation_memory: bytes that the activations of 1,024 tokens may take, by estimate; layers that do not fit are
            computed a second time in the backward pass. None for no limit.
    """

    heads: int = 4
    rank: int | None = None
    budget: int | None = None
    init: Init = Init.GRAM_SCHMIDT
    seed: int = 0
    targets: tuple[str, ...] = ()
    saved: tuple[str, ...] = ()
    top_layers: int | None = None
    precision: Precision = Precision.FP32
    tolerance: float = 1e-4
    activation_memory: int | None = None


def export_bundle(
    recipe: Callable[[], Recipe], options: ExportOptions, out: Path, name: str, progress: Progress = lambda _: None
) -> Bundle:
    """Writes the bundle to ``out``, a folder that does not exist yet; after an error nothing is left there.

    Args:
        recipe: loads the model.
        options: how to adapt it.
        out: where to.
        name: the model's, for people.
        progress: told what is done.

    Raises:
        ExportError: the model can't be loaded or exported, or its graphs differ from torch.
        TargetError: a pattern matches nothing.
        EnvironmentProblem: ``out`` exists.
    """
    with quiet_transformers(), new_folder(out) as folder:
        progress(f"loading {name}")
        manifest = _write(recipe(), options, folder, name, progress)
    return Bundle(out, manifest)


def _write(recipe: Recipe, options: ExportOptions, folder: Path, name: str, progress: Progress) -> Manifest:
    recipe.save(folder / SOURCE)
    if TOKENIZER in recipe.task.device_files:
        _copy_tokenizer(folder, name)
    spec = _adapt(recipe, options)
    progress(f"exporting {len(spec.layers)} adapted layers, {spec.heads} heads of rank {spec.rank}")
    measured = _write_graphs(recipe, spec, folder, options)
    start = read_trainables(recipe.model, spec)
    initial = Update.full(np.zeros(spec.H_shape, np.float32), saved_view(spec, start))
    (folder / INITIAL).write_bytes(encode(spec, initial))
    progress(f"verified: gradients within {measured['gradient']:.1e} of torch")
    optional = [PREFIX] if (folder / PREFIX).exists() else []
    manifest = Manifest(
        task=recipe.task,
        adapter=spec,
        precision=options.precision,
        files={file: describe_file(folder / file) for file in (*recipe.task.device_files, *optional)},
        source_files=_entries(folder, SOURCE),
        model=name,
        versions={name: version(name) for name in ("ravan-fl", "torch", "transformers", "onnx", "onnxruntime")},
        verification=measured,
        **recipe.settings,
    )
    (folder / MANIFEST).write_text(manifest.to_json(), "utf-8")
    manifest = replace(manifest, memory=footprint(folder))
    (folder / MANIFEST).write_text(manifest.to_json(), "utf-8")
    progress(f"measured: training takes {min(manifest.memory.values()) / 1e6:.0f} MB")
    return manifest


def _adapt(recipe: Recipe, options: ExportOptions) -> AdapterSpec:
    """Injects the heads, in place."""
    defaults = Architecture(options.targets, options.saved)
    if not (options.targets and options.saved):
        defaults = recipe.architecture()
    spec = make_spec(
        recipe.model,
        options.targets or defaults.targets,
        heads=options.heads,
        rank=options.rank,
        budget=options.budget,
        init=options.init,
        seed=options.seed,
        saved=options.saved or defaults.saved,
        top_layers=options.top_layers,
    )
    inject(recipe.model, spec)
    split_where_cheaper(recipe.model, options.precision)
    return spec


def _write_graphs(recipe: Recipe, spec: AdapterSpec, folder: Path, options: ExportOptions) -> dict[str, float]:
    """Writes the graphs with their weights; returns what was measured against torch."""
    forward = export_forward(recipe.model, spec, recipe.example(3, 17).batch, recipe.axes, recipe.longest)
    other = recipe.example(5, 24)  # other sizes than exported: both axes must be dynamic
    parts, budget = split_prefix(forward, named_trainables(recipe.model, spec)), _budget(recipe, options)
    write = partial(_save_graphs, forward, parts, spec, folder, budget)
    write(Numbers())
    seen = verify(folder, recipe.model, spec, other)
    require(seen, options.tolerance)
    measured = {"loss": seen.loss, "gradient": seen.gradient, "logits": seen.logits, "tolerance": options.tolerance}
    if options.precision is Precision.INT8:
        flat = perturbed(spec, read_trainables(recipe.model, spec))
        exact = run_graphs(folder, feed_of(other, flat))
        write(Numbers(Precision.INT8, calibrate(forward, feed_of(other, flat) | tensors(spec, flat))))
        measured["int8_cosine"] = int8_likeness(exact, run_graphs(folder, feed_of(other, flat)), spec)
        require_likeness(measured["int8_cosine"])
    return measured


def _budget(recipe: Recipe, options: ExportOptions) -> Budget | None:
    """What the activations of one micro-batch may take, in as many full sequences or images as that holds."""
    if options.activation_memory is None:
        return None
    image: ImageSettings | None = recipe.settings.get("image")
    tokens = image.tokens if image else recipe.longest
    return Budget(options.activation_memory, {"batch": max(MICRO_BATCH // tokens, 1), "length": tokens})


def _save_graphs(
    forward: ir.Model, parts: Parts | None, spec: AdapterSpec, folder: Path, budget: Budget | None, numbers: Numbers
) -> None:
    graphs = {EVAL: eval_graph(forward, spec, numbers)}
    if parts is None:
        graphs[TRAIN] = train_graph(forward, spec, numbers, budget)
    else:
        graphs |= {PREFIX: prefix_graph(parts.prefix, numbers), TRAIN: train_graph(parts.rest, spec, numbers, budget)}
    save_with_shared_weights(graphs, folder)


def _copy_tokenizer(folder: Path, name: str) -> None:
    if not (folder / SOURCE / TOKENIZER).is_file():
        raise ExportError(f"{name} needs a fast tokenizer, one with a {TOKENIZER}: convert its tokenizer first.")
    shutil.copyfile(folder / SOURCE / TOKENIZER, folder / TOKENIZER)


def _entries(folder: Path, sub: str) -> dict[str, FileEntry]:
    paths = sorted(p for p in (folder / sub).rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): describe_file(p) for p in paths}

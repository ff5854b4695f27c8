"""From a recipe to a bundle on disk: inject heads, export, differentiate, verify, write."""

import math
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime

from export.adapted import split_where_cheaper
from export.architectures import Architecture
from export.calibrate import calibrate
from export.forward import IR_VERSION, LEAST_ONNXRUNTIME, OPSET, export_forward
from export.graphs import Graphs, choose_micro_batch
from export.kinks import clear_example
from export.ort_artifacts import require_agreement, verify_artifacts, write_artifacts
from export.plain_attention import without_fast_paths
from export.prefix import split_prefix
from export.recipe import Recipe
from export.train_step import Numbers
from export.transformers_io import quiet_transformers
from export.verify import (
    feed_of,
    int8_likeness,
    perturbed,
    require,
    require_likeness,
    require_shorter,
    run_graphs,
    shorter_apart,
    shorter_likeness,
    verify,
)
from ravan.bundle import (
    INITIAL,
    PREFIX,
    READ_SINCE,
    SOURCE,
    TOKENIZER,
    Bundle,
    ImageSettings,
    Manifest,
    Precision,
    Task,
)
from ravan.bundle_files import ARTIFACTS, MANIFEST, FileEntry, describe_file, top_graph
from ravan.errors import ExportError
from ravan.files import new_folder
from ravan.inputs import TensorInput
from ravan.layout import saved_view, tensors
from ravan.needs import Needs
from ravan.runtime import ort_training
from ravan.runtime.footprint import footprint
from ravan.runtime.operators import check_graphs
from ravan.spec import AdapterSpec, Init
from ravan.torch import inject, make_spec, named_trainables, read_trainables
from ravan.update import Update, encode

Progress = Callable[[str], None]
ACTIVATION_MEMORY = 192_000_000


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
        activation_memory: bytes that activations may take, by estimate. The micro-batch follows from it; if not even
            one sequence fits, layers are computed a second time in the backward pass.
        ort_python: a Python with onnxruntime-training, to add its artifacts to the bundle; None for none.
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
    activation_memory: int = ACTIVATION_MEMORY
    ort_python: Path | None = None


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
        BundleError: the graphs have operators that devices do not run.
        EnvironmentProblem: ``out`` exists.
    """
    with quiet_transformers(), without_fast_paths(), new_folder(out) as folder:
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
    progress(f"verified: gradients within {measured.verification['gradient']:.1e} of torch")
    optional = [PREFIX, *map(top_graph, measured.tops), *ARTIFACTS]
    manifest = Manifest(
        task=recipe.task,
        adapter=spec,
        precision=options.precision,
        files={file: describe_file(folder / file) for file in _present(folder, (*recipe.task.device_files, *optional))},
        source_files=_entries(folder, SOURCE),
        model=name,
        versions=_versions(options),
        verification=measured.verification,
        inputs=measured.inputs,
        needs=Needs(READ_SINCE, LEAST_ONNXRUNTIME, OPSET, IR_VERSION),
        micro_batch=measured.micro_batch,
        **recipe.settings,
    )
    check_graphs(Bundle(folder, manifest), manifest.files)
    (folder / MANIFEST).write_text(manifest.to_json(), "utf-8")
    manifest = replace(manifest, memory=footprint(folder, options.ort_python))
    (folder / MANIFEST).write_text(manifest.to_json(), "utf-8")
    taken = ", ".join(f"{size / 1e6:.0f} MB ({name})" for name, size in manifest.memory.items())
    progress(f"measured: training takes {taken}")
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


@dataclass(frozen=True)
class Measured:
    """What is known of the graphs once they are written.

    Attributes:
        verification: differences to torch.
        inputs: what the graphs take.
        micro_batch: the tokens to compute at a time.
        tops: how many of the last adapted layers each shorter training graph reaches.
    """

    verification: dict[str, float]
    inputs: tuple[TensorInput, ...]
    micro_batch: int
    tops: Sequence[int]


def _write_graphs(recipe: Recipe, spec: AdapterSpec, folder: Path, options: ExportOptions) -> Measured:
    """Writes the graphs with their weights, checked against torch."""
    forward = export_forward(recipe.model, spec, recipe.example(3, 17).batch, recipe.axes, recipe.sizes)
    other = clear_example(recipe)  # other sizes than exported: all axes must be dynamic
    graphs = Graphs(forward, split_prefix(forward, named_trainables(recipe.model, spec)), spec, recipe.loss)
    kept, memory = graphs.activations(recipe.sizes), options.activation_memory
    micro_batch, budget = choose_micro_batch(kept, _tokens(recipe), memory, recipe.sizes)
    graphs.save(folder, Numbers(), budget)
    flat = perturbed(spec, read_trainables(recipe.model, spec))
    seen = verify(folder, recipe.model, spec, other, flat)
    require(seen, options.tolerance)
    measured = {"loss": seen.loss, "gradient": seen.gradient, "logits": seen.logits, "tolerance": options.tolerance}
    feed = feed_of(other, flat)
    measured["shorter"] = shorter_apart(folder, spec, feed, seen.outputs, graphs.tops)
    require_shorter(measured["shorter"], options.tolerance)
    if options.ort_python is not None:
        start = read_trainables(recipe.model, spec)
        write_artifacts(graphs.trained, spec, start, folder, options.ort_python, recipe.loss)
        measured["ort_training"] = verify_artifacts(folder, spec, feed, seen.outputs, options.ort_python)
        require_agreement(measured["ort_training"], options.tolerance)
    if options.precision is Precision.INT8:
        graphs.save(folder, Numbers(Precision.INT8, calibrate(forward, feed | tensors(spec, flat), folder)), budget)
        measured["int8_cosine"] = min(
            int8_likeness(seen.outputs, run_graphs(folder, feed), spec),
            shorter_likeness(folder, spec, feed, seen.outputs, graphs.tops),
        )
        require_likeness(measured["int8_cosine"])
    return Measured(measured, graphs.inputs(), micro_batch, graphs.tops)


def _versions(options: ExportOptions) -> dict[str, str]:
    found = {name: version(name) for name in ("ravan-fl", "torch", "transformers", "onnx")}
    found["onnxruntime"] = onnxruntime.__version__  # of whichever package brings it
    return found if options.ort_python is None else found | {"onnxruntime-training": ort_training.VERSION}


def _tokens(recipe: Recipe) -> int:
    """Of a full sequence, with its target if it has one, or of an image; of a custom model's example all values."""
    image: ImageSettings | None = recipe.settings.get("image")
    if image:
        return image.tokens
    return (sum if recipe.task is Task.SEQ2SEQ else math.prod)(recipe.sizes.values())


def _copy_tokenizer(folder: Path, name: str) -> None:
    if not (folder / SOURCE / TOKENIZER).is_file():
        raise ExportError(f"{name} needs a fast tokenizer, one with a {TOKENIZER}: convert its tokenizer first.")
    shutil.copyfile(folder / SOURCE / TOKENIZER, folder / TOKENIZER)


def _present(folder: Path, names: Iterable[str]) -> list[str]:
    """Those of the files that were written."""
    return [name for name in names if (folder / name).exists()]


def _entries(folder: Path, sub: str) -> dict[str, FileEntry]:
    paths = sorted(p for p in (folder / sub).rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): describe_file(p) for p in paths}

"""A bundle and a trained adapter as a plain model again: a folder as it was loaded from, and an inference graph."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from export.causal_lm import causal_lm
from export.custom import saved_model
from export.forward import export_plain
from export.image_classifier import image_classifier
from export.inference import Agreement, write_int8
from export.plain_attention import without_fast_paths
from export.recipe import Recipe, logits_of
from export.seq2seq import seq2seq
from export.text_classifier import text_classifier
from export.token_classifier import token_classifier
from export.transformers_io import quiet_transformers
from export.verify import apart
from ravan.bundle import SOURCE, Bundle, Task
from ravan.bundle_files import check_file
from ravan.errors import ExportError
from ravan.files import new_folder
from ravan.inputs import Loss
from ravan.layout import Vector
from ravan.runtime.adapter import read_adapter
from ravan.runtime.names import LOGITS
from ravan.runtime.session import RuntimeOptions, open_session
from ravan.torch import inject, merge, write_trainables

INFERENCE = "model.onnx"
INT8_INFERENCE = "model-int8.onnx"
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Merged:
    """Where the merged model is and how far its logits are from the adapter model's, see ``export.verify.apart``.

    Attributes:
        folder: loads with transformers, or holds a custom module's state dict; ``model.onnx`` for onnxruntime too.
        transformers: largest difference of the folder's logits, loaded afresh into torch.
        onnx: largest difference of model.onnx's logits.
        int8: how model-int8.onnx agrees with model.onnx; None if it was not wanted.
    """

    folder: Path
    transformers: float
    onnx: float
    int8: Agreement | None = None


def merge_bundle(
    bundle: Bundle, adapter: Path, out: Path, progress: Callable[[str], None] = lambda _: None, *, int8: bool = False
) -> Merged:
    """Merges ``adapter`` into the bundle's model and writes it to ``out``, a folder that does not exist yet.

    With ``int8`` an inference graph with int8 weights is written too.

    Raises:
        BundleError: the adapter belongs to another bundle, or the bundle's source was changed.
        ExportError: the merged model's logits are further than 1e-4 from the adapter model's.
    """
    for name, entry in bundle.manifest.source_files.items():
        check_file(bundle.folder, name, entry)
    spec = bundle.manifest.adapter
    trainables = read_adapter(adapter, spec).trainables(spec)
    with quiet_transformers(), without_fast_paths(), new_folder(out) as folder:
        progress("merging")
        batch, expected = _write_merged(bundle, trainables, folder)
        progress(f"exporting {INFERENCE}")
        merged = reload(bundle, folder)
        export_plain(merged.model, batch, merged.axes, merged.sizes, folder / INFERENCE)
        progress("comparing logits")
        arrays = {name: value.numpy() for name, value in batch.items()}
        by_torch = _logits(merged, batch)
        (by_onnx,) = open_session(folder / INFERENCE, RuntimeOptions(mapped=True)).run([LOGITS], arrays)
        values = merged.loss is Loss.MEAN_SQUARED_ERROR
        off_torch, off_onnx = (apart(seen, expected, values=values) for seen in (by_torch, by_onnx))
        if not max(off_torch, off_onnx) <= TOLERANCE:
            raise ExportError(
                f"The merged model's logits are off by {max(off_torch, off_onnx):.1e} (tolerance "
                f"{TOLERANCE:.0e}): check that the adapter's values are of a sensible size."
            )
        agreement = None
        if int8:
            progress(f"quantizing into {INT8_INFERENCE}")
            rows = 8 if bundle.manifest.task.per_token else 32
            other = {name: value.numpy() for name, value in merged.example(rows, 17).batch.items()}
            agreement = write_int8(folder / INFERENCE, arrays, other, folder / INT8_INFERENCE, choices=not values)
    return Merged(out, off_torch, off_onnx, agreement)


def _write_merged(bundle: Bundle, trainables: Vector, folder: Path) -> tuple[dict[str, Tensor], np.ndarray]:
    """Saves the merged model to ``folder`` and lets go of it; a batch, and the adapter model's logits for it."""
    recipe, spec = reload(bundle, bundle.path(SOURCE)), bundle.manifest.adapter
    batch = recipe.example(4, 24).batch
    inject(recipe.model, spec)
    write_trainables(recipe.model, spec, trainables)
    expected = _logits(recipe, batch)
    merge(recipe.model, spec)
    recipe.save(folder)
    return batch, expected


def reload(bundle: Bundle, folder: Path) -> Recipe:
    """The recipe for a model that was saved for this bundle's task."""
    manifest = bundle.manifest
    match manifest.task:
        case Task.TEXT_CLASSIFICATION:
            return text_classifier(folder, max_length=manifest.max_length)
        case Task.TOKEN_CLASSIFICATION:
            return token_classifier(folder, max_length=manifest.max_length)
        case Task.CAUSAL_LM:
            return causal_lm(folder, manifest.max_length)
        case Task.IMAGE_CLASSIFICATION:
            return image_classifier(folder)
        case Task.SEQ2SEQ:
            assert manifest.seq2seq is not None
            longest, prefix = manifest.seq2seq.max_target, manifest.seq2seq.prefix
            return seq2seq(folder, manifest.labels, manifest.max_length, longest, prefix=prefix)
        case Task.CUSTOM:
            return saved_model(folder)


def _logits(recipe: Recipe, batch: dict[str, Tensor]) -> np.ndarray:
    with torch.no_grad():
        logits: np.ndarray = logits_of(recipe.model(**batch)).numpy()
    return logits

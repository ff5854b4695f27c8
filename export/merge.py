"""A bundle and a trained adapter as a plain model again: a transformers folder and an inference graph."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from export.forward import export_plain
from export.text_classifier import example_batch
from export.transformers_io import load_classifier, load_tokenizer, quiet_transformers, save
from ravan.bundle import SOURCE, Bundle, check_file
from ravan.errors import ExportError
from ravan.files import new_folder
from ravan.runtime.adapter import read_adapter
from ravan.runtime.names import LOGITS
from ravan.runtime.session import open_session
from ravan.torch import inject, merge, write_trainables

INFERENCE = "model.onnx"
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Merged:
    """Where the merged model is and how far its logits are from the adapter model's, absolute.

    Attributes:
        folder: loads with transformers; holds ``model.onnx`` for onnxruntime too.
        transformers: largest difference of the folder's logits, loaded afresh.
        onnx: largest difference of model.onnx's logits.
    """

    folder: Path
    transformers: float
    onnx: float


def merge_bundle(bundle: Bundle, adapter: Path, out: Path, progress: Callable[[str], None] = lambda _: None) -> Merged:
    """Merges ``adapter`` into the bundle's model and writes it to ``out``, a folder that does not exist yet.

    Raises:
        BundleError: the adapter belongs to another bundle, or the bundle's source was changed.
        ExportError: the merged model's logits are further than 1e-4 from the adapter model's.
    """
    for name, entry in bundle.manifest.source_files.items():
        check_file(bundle.folder, name, entry)
    spec = bundle.manifest.adapter
    trainables = read_adapter(adapter, spec).trainables(spec)
    with quiet_transformers(), new_folder(out) as folder:
        progress("merging")
        model = load_classifier(bundle.path(SOURCE))
        inject(model, spec)
        write_trainables(model, spec, trainables)
        batch = example_batch(model, (4, min(24, bundle.manifest.max_length)))
        with torch.no_grad():
            expected = model(**batch).logits.numpy()
        merge(model, spec)
        save(model, load_tokenizer(bundle.path(SOURCE)), folder)
        progress(f"exporting {INFERENCE}")
        merged = load_classifier(folder)
        export_plain(merged, batch, bundle.manifest.max_length, folder / INFERENCE)
        progress("comparing logits")
        arrays = {name: value.numpy() for name, value in batch.items()}
        with torch.no_grad():
            by_transformers = merged(**batch).logits.numpy()
        (by_onnx,) = open_session(folder / INFERENCE).run([LOGITS], arrays)
        differences = [float(np.abs(seen - expected).max()) for seen in (by_transformers, by_onnx)]
        if not max(differences) <= TOLERANCE:
            raise ExportError(
                f"The merged model's logits are off by {max(differences):.1e} (tolerance {TOLERANCE:.0e}): "
                "check that the adapter's values are of a sensible size."
            )
    return Merged(out, *differences)

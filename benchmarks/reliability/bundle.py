"""A training bundle of any size for devices that do not train: its graphs are filler, all the rest is real."""

from pathlib import Path

import numpy as np

from ravan.bundle import EVAL, INITIAL, TOKENIZER, TRAIN, WEIGHTS, Bundle, Manifest, Precision, Task, open_bundle
from ravan.bundle_files import MANIFEST, describe_file
from ravan.spec import AdapterSpec, LayerSpec, TensorSpec
from ravan.update import Update, encode

SMALL = AdapterSpec(
    layers=(LayerSpec("query", 32, 32), LayerSpec("value", 32, 32)),
    heads=3,
    rank=8,
    saved=(TensorSpec("classifier.weight", (4, 32)),),
)
"""An update has 2 kB."""
LARGE = AdapterSpec(tuple(LayerSpec(f"layer-{number}", 384, 384) for number in range(12)), heads=4, rank=155)
"""An update has 4.6 MB."""


def filler_bundle(folder: Path, spec: AdapterSpec = SMALL) -> Bundle:
    """A bundle of this adapter spec whose first adapter is all zeros."""
    folder.mkdir(parents=True)
    for name in (TRAIN, EVAL, WEIGHTS, TOKENIZER):
        (folder / name).write_bytes(f"{name}, filler".encode() * 1000)
    nothing = Update.full(np.zeros(spec.H_shape, np.float32), np.zeros(spec.saved_size, np.float32))
    (folder / INITIAL).write_bytes(encode(spec, nothing))
    manifest = Manifest(
        task=Task.TEXT_CLASSIFICATION,
        adapter=spec,
        labels=("a", "b"),
        max_length=16,
        pad_id=0,
        precision=Precision.FP32,
        files={name: describe_file(folder / name) for name in Task.TEXT_CLASSIFICATION.device_files},
        model="filler",
    )
    (folder / MANIFEST).write_text(manifest.to_json(), "utf-8")
    return open_bundle(folder)

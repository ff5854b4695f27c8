"""Bundles for every version to run: a language model in int8 with a frozen prefix, one in float32, and a ViT.

usage: python -m tests.versions.bundles FOLDER
"""

import sys
import tempfile
from pathlib import Path

from export.bundle import ExportOptions, export_bundle
from export.causal_lm import causal_lm
from export.image_classifier import image_classifier
from ravan.bundle import Precision
from tests.decoders import write_llama
from tests.images import write_vit

WIDE = {"hidden_size": 128, "intermediate_size": 256}  # enough for its products to be worth quantizing


def main() -> None:
    """Writes each to a folder of its own."""
    out = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        llama, vit = write_llama(Path(scratch) / "llama", **WIDE), write_vit(Path(scratch) / "vit", channels=3)
        options = ExportOptions(heads=2, rank=4)
        export_bundle(lambda: causal_lm(llama, 32), options, out / "language-fp32", "llama")
        export_bundle(lambda: image_classifier(vit), options, out / "images-fp32", "vit")
        top = ExportOptions(heads=2, rank=4, top_layers=1, precision=Precision.INT8)
        export_bundle(lambda: causal_lm(llama, 32), top, out / "language-int8-top", "llama")


if __name__ == "__main__":
    main()

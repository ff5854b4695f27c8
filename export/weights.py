"""Frozen weights and bases in one file beside the graphs, shared by both and ready to be memory-mapped."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from ravan.bundle import WEIGHTS

ALIGNMENT = 4096  # a memory page
SMALLEST = 1024  # bytes; smaller constants stay inside the graph


def save_with_shared_weights(models: Mapping[str, ir.Model], folder: Path) -> None:
    """Writes each model as ``folder/name`` and their large constants, equal ones once, as ``folder/weights.bin``."""
    offsets: dict[bytes, int] = {}
    with (folder / WEIGHTS).open("wb") as file:
        for model in models.values():
            for value in model.graph.initializers.values():
                tensor = value.const_value
                if tensor is None or tensor.nbytes < SMALLEST:
                    continue
                data = tensor.tobytes()
                digest = hashlib.sha256(data).digest()
                if digest not in offsets:
                    file.write(bytes(-file.tell() % ALIGNMENT))
                    offsets[digest] = file.tell()
                    file.write(data)
                value.const_value = ir.ExternalTensor(
                    WEIGHTS,
                    offsets[digest],
                    len(data),
                    tensor.dtype,
                    shape=ir.Shape(tensor.shape.numpy()),
                    name=value.name or "",
                    base_dir=folder,
                )
    for name, model in models.items():
        ir.save(model, folder / name)

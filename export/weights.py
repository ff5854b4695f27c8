"""Frozen weights and bases in one file beside the graphs, shared by both and ready to be memory-mapped."""

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from ravan.bundle import WEIGHTS

ALIGNMENT = 4096  # a memory page
SMALLEST = 1024  # bytes; smaller constants stay inside the graph


def save_with_shared_weights(models: Mapping[str, ir.Model], folder: Path) -> None:
    """Writes each model as ``folder/name`` and their large constants, equal ones once, as ``folder/weights.bin``.

    The models share constants by name: they were made from one forward graph.
    """
    placed: dict[str, ir.ExternalTensor] = {}
    with (folder / WEIGHTS).open("wb") as file:
        for model in models.values():
            for name, value in model.graph.initializers.items():
                tensor = value.const_value
                if tensor is None or tensor.nbytes < SMALLEST:
                    continue
                if name not in placed:
                    file.write(bytes(-file.tell() % ALIGNMENT))
                    offset = file.tell()
                    file.write(tensor.tobytes())
                    placed[name] = ir.ExternalTensor(
                        WEIGHTS,
                        offset,
                        tensor.nbytes,
                        tensor.dtype,
                        shape=ir.Shape(tensor.shape.numpy()),
                        name=name,
                        base_dir=folder,
                    )
                value.const_value = placed[name]
    for name, model in models.items():
        ir.save(model, folder / name)

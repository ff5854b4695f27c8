"""Frozen weights and bases in one file beside the graphs, shared by both and ready to be memory-mapped."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ravan.bundle import WEIGHTS

ALIGNMENT = 4096  # a memory page
SMALLEST = 1024  # bytes; smaller constants stay inside the graph


def save_with_shared_weights(models: Mapping[str, ir.Model], folder: Path) -> None:
    """Writes each model as ``folder/name`` and their large constants, equal ones once, as ``folder/weights.bin``.

    The models' constants are the file's from then on. Graphs made from one another share tensors, so each is looked at
    once, and none is copied: together they may be larger than memory.
    """
    owners: defaultdict[int, list[ir.Value]] = defaultdict(list)
    for model in models.values():
        for value in model.graph.initializers.values():
            if value.const_value is None:
                continue
            if value.const_value.nbytes >= SMALLEST:
                owners[id(value.const_value)].append(value)
            elif isinstance(value.const_value, ir.ExternalTensor):  # of another model's file, which stays where it is
                value.const_value = ir.tensor(value.const_value.numpy(), name=value.name)
    offsets: dict[bytes, int] = {}
    with (folder / WEIGHTS).open("wb") as file:
        for values in owners.values():
            tensor = values[0].const_value
            assert tensor is not None
            data = np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8).data
            digest = hashlib.sha256(data).digest()
            if digest not in offsets:
                file.write(bytes(-file.tell() % ALIGNMENT))
                offsets[digest] = file.tell()
                file.write(data)
            for value in values:
                value.const_value = _in_file(value, tensor, offsets[digest], folder)
    for name, model in models.items():
        ir.save(model, folder / name)


def _in_file(value: ir.Value, tensor: ir.TensorProtocol, offset: int, folder: Path) -> ir.ExternalTensor:
    shape = ir.Shape(tensor.shape.numpy())
    return ir.ExternalTensor(
        WEIGHTS, offset, tensor.nbytes, tensor.dtype, shape=shape, name=value.name or "", base_dir=folder
    )

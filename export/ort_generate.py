"""The part of an export that a Python with onnxruntime-training does: from a forward graph to the official artifacts.

``python -m export.ort_generate forward.onnx out`` reads what to train and to keep as JSON from standard input.
"""

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from ravan.bundle_files import ARTIFACTS, CHECKPOINT, OPTIMIZER_MODEL
from ravan.inputs import Loss
from ravan.runtime.names import IGNORED, LABELS
from ravan.runtime.ort_process import import_training

IR_VERSION = 10  # the newest that onnxruntime 1.19.2 reads; onnx 1.18 and newer write a later one


def generate(forward: Path, out: Path, trained: Sequence[str], kept: Sequence[str], objective: str) -> None:
    """Writes ``ravan.bundle_files.ARTIFACTS`` below a folder: loss, gradients, AdamW.

    Args:
        forward: a graph whose one output goes into the loss; for cross entropy [rows, classes].
        out: the bundle's folder.
        trained: initializers that get a gradient.
        kept: outputs of training and eval model beside the loss.
        objective: a name of ``ravan.inputs.Loss``.
    """
    artifacts, onnxblock = import_training("artifacts"), import_training("onnxblock")
    model = onnx.load(forward)
    (out / CHECKPOINT).parent.mkdir(exist_ok=True)
    artifacts.generate_artifacts(
        model,
        requires_grad=list(trained),
        frozen_params=[value.name for value in model.graph.initializer if value.name not in set(trained)],
        loss=_loss(onnxblock, Loss(objective)),
        optimizer=onnxblock.optim.AdamW(eps=1e-8),
        artifact_directory=(out / CHECKPOINT).parent,
        additional_output_names=list(kept),
    )
    for name in set(ARTIFACTS) - {CHECKPOINT}:
        made = onnx.load(out / name)
        made.ir_version = min(made.ir_version, IR_VERSION)
        if name == OPTIMIZER_MODEL:
            _as_torch(made)
        onnx.save(made, out / name)


def _loss(onnxblock: Any, objective: Loss) -> Any:
    if objective is not Loss.MEAN_SQUARED_ERROR:
        return onnxblock.loss.CrossEntropyLoss(ignore_index=IGNORED)
    loss = onnxblock.loss.MSELoss()
    loss.build = partial(loss.build, target_name=LABELS)
    return loss


def _as_torch(optimizer: onnx.ModelProto) -> None:
    """AdamW as torch.optim.AdamW computes it; the generator's own is transformers' former one."""
    for node in optimizer.graph.node:
        for attribute in node.attribute:
            if attribute.name == "adam_mode":
                attribute.i = 0


if __name__ == "__main__":
    generate(Path(sys.argv[1]), Path(sys.argv[2]), **json.load(sys.stdin))

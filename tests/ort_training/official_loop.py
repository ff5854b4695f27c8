"""The artifacts as anybody uses them, with the official interface alone: twenty steps of its own AdamW.

``python -m tests.ort_training.official_loop bundle batches.npz out`` writes ``out``.npz, the trained parameters, and
``out``.onnx, the trained model for inference.
"""

import sys
from pathlib import Path

import numpy as np

from ravan.bundle_files import CHECKPOINT, EVAL_MODEL, OPTIMIZER_MODEL, TRAINING_MODEL
from ravan.runtime.ort_process import import_training

RATE, STEPS = 5e-3, 20


def main(folder: Path, batches: Path, out: str) -> None:
    api = import_training("api")
    state = api.CheckpointState.load_checkpoint(str(folder / CHECKPOINT))
    module = api.Module(str(folder / TRAINING_MODEL), state, str(folder / EVAL_MODEL))
    optimizer = api.Optimizer(str(folder / OPTIMIZER_MODEL), module)
    optimizer.set_learning_rate(RATE)
    module.train()
    with np.load(batches, allow_pickle=False) as data:
        for i in range(STEPS):
            module(*(data[f"{name}_{i}"] for name in module.input_names()))
            optimizer.step()
            module.lazy_reset_grad()
    np.savez(f"{out}.npz", **{name: value.data for name, value in state.parameters if value.requires_grad})
    module.export_model_for_inferencing(f"{out}.onnx", ["logits"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])

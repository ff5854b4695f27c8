"""Twenty steps of AdamW from the bundle's first adapter, on the same batches whatever the runtime.

``python -m tests.ort_training.twenty_steps bundle data onnxruntime|ort-training out.npz`` takes them in an environment
of its own.
"""

import sys
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime

from edge.runtimes import Runtime, Runtimes
from edge.steps import open_step
from edge.training import MiniBatches, run_generator, train_locally
from ravan.bundle import INITIAL, open_bundle
from ravan.rpc.plan import OptimizerName, TrainingPlan
from ravan.runtime.examples import read_examples
from ravan.runtime.session import RuntimeOptions
from ravan.update import decode

PLAN = TrainingPlan(
    local_steps=20,
    batch_size=8,
    optimizer=OptimizerName.ADAMW,
    learning_rate=5e-3,
    saved_learning_rate=2e-3,
    weight_decay=0.01,
)
Result = dict[str, np.ndarray]


def twenty_steps(folder: Path, data: Path, runtimes: Runtimes, tokens: int = 0) -> Result:
    """What a device would upload, and the losses on its way there."""
    bundle = open_bundle(folder)
    spec = bundle.manifest.adapter
    base = decode(spec, bundle.path(INITIAL).read_bytes())
    generator = run_generator(PLAN, 1, "0" * 32)
    batches = MiniBatches(read_examples(bundle, data), PLAN.batch_size, tokens, generator)
    with closing(open_step(runtimes, bundle, RuntimeOptions(threads=1))) as step:
        run = train_locally(step, spec, base, batches, PLAN, 0.5, generator)
    return {"sH": run.update.sH, "saved": run.update.saved, "losses": np.array(run.losses)}


if __name__ == "__main__":
    found = Runtimes.find(Runtime(sys.argv[3]), None)
    result = twenty_steps(Path(sys.argv[1]), Path(sys.argv[2]), found)
    about = {"version": onnxruntime.__version__, "torch": find_spec("torch") is not None}
    np.savez(sys.argv[4], **result, **{name: np.array(value) for name, value in about.items()})  # type: ignore[arg-type]

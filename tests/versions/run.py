"""What this environment's Python and onnxruntime make of bundles, for ``tests.versions.agree`` to compare.

usage: python run.py BUNDLES OUT.npz

It needs what a device has, and nothing of this folder: an installed wheel may run it.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.training import train_locally
from ravan.bundle import INITIAL, PREFIX, Bundle, open_bundle
from ravan.rpc.plan import TrainingPlan
from ravan.runtime.footprint import full_parts
from ravan.runtime.names import HIDDEN
from ravan.runtime.session import Batch, Evaluator, Prefix, RuntimeOptions, TrainStep
from ravan.update import decode

ROWS, LENGTH, STEPS = 6, 16, 8
PLAN = TrainingPlan(local_steps=STEPS, batch_size=ROWS, learning_rate=1e-2, saved_learning_rate=1e-2)
Figures = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Runtime:
    """A bundle's sessions in this environment."""

    bundle: Bundle
    options: RuntimeOptions

    def figures(self) -> Figures:
        """Losses of a local run; at trainables that move every gradient, the gradient and the loss of eval.onnx."""
        spec = self.bundle.manifest.adapter
        base = decode(spec, self.bundle.path(INITIAL).read_bytes())
        step, batch = TrainStep(self.bundle, self.options), self._batch()
        generator = np.random.default_rng(0)
        run = train_locally(step, spec, base, iter([[batch]] * STEPS), PLAN, 1.0, generator)
        moved = base.trainables(spec)
        moved += 0.02 * generator.standard_normal(spec.size, np.float32)  # at H = 0 most gradients are 0
        evaluation = Evaluator(self.bundle, self.options).evaluate(moved, [batch])
        return {
            "losses": np.array(run.losses, np.float32),
            "gradients": step(moved, batch).gradients,
            "evaluation": np.array([evaluation.loss], np.float32),
        }

    def _batch(self) -> Batch:
        (batch,) = full_parts(self.bundle, ROWS, LENGTH, sys.maxsize)
        if PREFIX in self.bundle.manifest.files:
            batch = {**batch, HIDDEN: Prefix(self.bundle, self.options)(batch)}
        return batch


def main() -> None:
    """Every bundle, with packed and with mapped weights."""
    folder, out = map(Path, sys.argv[1:])
    found: Figures = {}
    for path in sorted(folder.iterdir()):
        for mapped in (False, True):
            name = f"{path.name} {'mapped' if mapped else 'packed'}"
            figures = Runtime(open_bundle(path), RuntimeOptions(threads=1, mapped=mapped)).figures()
            found |= {f"{name} {figure}": values for figure, values in figures.items()}
    np.savez(out, **found)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()

"""A device's local run, for tests: in a process of the edge environment, where torch is not to be found."""

import json
import sys
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from edge.training import MiniBatches, train_locally
from edge.workshop import Workshop
from ravan.bundle import INITIAL, open_bundle
from ravan.cli.logs import configure_logs
from ravan.layout import Vector
from ravan.rpc.plan import TrainingPlan
from ravan.runtime.examples import in_order_of_size, read_examples
from ravan.runtime.session import Evaluator, RuntimeOptions
from ravan.update import decode, encode

BATCH = 8
PLAN = TrainingPlan(local_steps=30, batch_size=BATCH, learning_rate=2e-2, saved_learning_rate=1e-2)
ABSENT = ("torch", "transformers", "onnx")


@dataclass(frozen=True)
class Outcome:
    """Mean loss over the device's data before and after training."""

    before: float
    after: float


def train(folder: Path, data: Path, out: Path) -> Outcome:
    """Trains the bundle in ``folder`` on ``data`` and writes the update to ``out``."""
    bundle, options = open_bundle(folder), RuntimeOptions(threads=2)
    spec = bundle.manifest.adapter
    examples = read_examples(bundle, data)
    workshop = Workshop(options, out.with_suffix(".sqlite"), 1 << 20)
    evaluator = Evaluator(bundle, options)

    def loss(trainables: Vector) -> float:
        return evaluator.evaluate(trainables, in_order_of_size(examples, BATCH)).loss

    base, generator = decode(spec, bundle.path(INITIAL).read_bytes()), np.random.default_rng(0)
    batches = MiniBatches(workshop.prepared(bundle, examples), BATCH, bundle.manifest.micro_batch, generator)
    run = train_locally(workshop.step(bundle), spec, base, batches, PLAN, 1.0, generator)
    out.write_bytes(encode(spec, run.update))
    return Outcome(loss(base.trainables(spec)), loss(run.update.trainables(spec)))


def main() -> None:
    """Arguments: the bundle's folder, the data, where to write the update."""
    if present := [name for name in ABSENT if find_spec(name)]:
        sys.exit(f"{', '.join(present)} must not be installed where devices train")
    configure_logs()
    folder, data, out = map(Path, sys.argv[1:])
    sys.stdout.write(json.dumps(asdict(train(folder, data, out))))


if __name__ == "__main__":
    main()
